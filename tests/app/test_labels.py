"""Node labels, from simulated fleets to the API: written only where a known value differs."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector import config
from collector.app import Service, clusters
from collector.backoff import Backoff
from collector.collect.label_writer import LabelPolicy
from collector.collect.node_labels import LABEL_PREFIX, gpu_labels
from collector.collect.watcher import ClusterWatcher
from collector.model import Gpu, LabelFailure, Reading
from collector.simulator import Simulator
from collector.simulator.objects import NODES
from collector.store.leadership import Leadership
from tests.collect.world import FAST
from tests.support.own_text import own_text
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

POLICY = LabelPolicy(
    poll=0.02,
    settle=0.5,
    retry=Backoff(initial=0.05, maximum=0.1),
    contest=Backoff(initial=3600.0, maximum=3600.0),
)


class Fleet:
    """Simulated clusters whose nodes gpuid labels."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.folder, self.simulator = folder, simulator
        self.clusters = simulator.clusters
        self.service: Service

    def settings(self, *, labels: bool = True, names: tuple[str, ...] = ("sim-0", "sim-1", "sim-2")) -> str:
        text = f'defaults = {{ kubeconfig = "{self.simulator.kubeconfig}", labels = {str(labels).lower()} }}\n'
        text += '[server]\nlisten = "127.0.0.1:0"\n'
        text += f'[store]\nurl = "sqlite:///{self.folder}/gpuid.db"\n'
        return text + "".join(f'[[clusters]]\ncontext = "{name}"\n' for name in names)

    @asynccontextmanager
    async def running(self, *, labels: bool = True) -> AsyncIterator[None]:
        """Run a service on them."""
        path = self.folder / "gpuid.toml"
        path.write_text(self.settings(labels=labels))
        self.service = Service(config.load(path))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: self.service.run(ready=lambda _url: None))
            yield
            tasks.cancel_scope.cancel()

    def truth(self, name: str = "sim-0") -> dict[str, dict[str, str]]:
        """Return the labels that the nodes of a cluster should have."""
        nodes: dict[str, list[Gpu]] = {node: [] for node in self.clusters[name].nodes}
        for one in self.simulator.fleet.expected(name):
            nodes[one.node].append(Gpu(uuid=one.uuid, serial=one.serial or None, chassis=one.chassis or None))
        return {node: gpu_labels(gpus) for node, gpus in nodes.items()}

    def document(self, node: str, name: str = "sim-0") -> dict[str, Any]:
        entry = self.clusters[name].objects._storage.get(NODES, node)
        assert entry is not None
        return entry.document()

    def labels(self, name: str = "sim-0") -> dict[str, dict[str, str]]:
        """Return the labels of that kind that the nodes of a cluster have."""
        found = {node: self.document(node, name)["metadata"]["labels"] for node in self.clusters[name].nodes}
        return {
            node: {key: value for key, value in labels.items() if key.startswith(LABEL_PREFIX)}
            for node, labels in found.items()
        }

    async def labelled(self, name: str = "sim-0") -> None:
        """Wait until the nodes of a cluster have the labels that they should have."""
        await eventually(lambda: self.labels(name) == self.truth(name))

    def patches(self, name: str = "sim-0") -> int:
        return self.clusters[name].counters.requests["patch", "nodes"]

    def execs(self, name: str = "sim-0") -> int:
        return self.clusters[name].counters.execs.total()

    def failures(self, reason: LabelFailure, name: str = "sim-0") -> float:
        text = own_text(self.service.metrics, clusters=[name], with_process=False)
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        wanted = {"cluster": name, "reason": reason.value}
        return sum(
            one.value for one in samples if one.name == "gpuid_node_label_failures_total" and one.labels == wanted
        )

    async def read(self, name: str = "sim-0") -> None:
        """Wait until the current state of every node of a cluster has been read."""
        await eventually(
            lambda: (
                {(node, gpu.uuid) for node, state in self.service.inventory.nodes(name).items() for gpu in state.gpus}
                == {(one.node, one.uuid) for one in self.simulator.fleet.expected(name)}
            )
        )

    async def stays(self, expected: Mapping[str, Mapping[str, str]], name: str = "sim-0") -> None:
        """Check that labels stay unchanged while nodes are read and the writer has had time to act."""
        for _ in range(10):
            await anyio.sleep(POLICY.poll)
            assert self.labels(name) == expected


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    """Three clusters, the last one of GB200 trays, and watchers that do not wait for long."""

    def fast(*args: Any, **options: Any) -> ClusterWatcher:
        return ClusterWatcher(*args, **options, intervals=msgspec.structs.replace(FAST, labels=POLICY))

    monkeypatch.setattr(clusters, "ClusterWatcher", fast)
    async with Simulator(
        clusters=3, nodes=3, gpus=4, latency=0.0, directory=tmp_path, bookmark_interval=0.2
    ) as simulator:
        yield Fleet(tmp_path, simulator)


async def test_each_node_gets_its_labels_in_one_patch(fleet: Fleet) -> None:
    async with fleet.running():
        for name in fleet.clusters:
            await fleet.labelled(name)
            assert (fleet.patches(name), fleet.execs(name)) == (3, 3)
        node = fleet.clusters["sim-0"].nodes[0]
        (entry,) = fleet.document(node)["metadata"]["managedFields"]
        assert (entry["manager"], entry["operation"]) == ("gpuid", "Update")
        tray = fleet.labels("sim-2")[fleet.clusters["sim-2"].nodes[0]]
        assert [key.removeprefix(LABEL_PREFIX) for key in sorted(tray)] == [
            "chassis",
            "chassis-count",
            "gpu-0",
            "gpu-1",
        ]
        await fleet.stays(fleet.truth("sim-0"))
        assert (fleet.patches("sim-0"), fleet.execs("sim-0")) == (3, 3)


async def test_a_restart_writes_nothing_if_labels_are_current(fleet: Fleet) -> None:
    async with fleet.running():
        await fleet.labelled()
        await eventually(lambda: not any(fleet.service.unstored()[0]))
    before = fleet.patches()
    node = fleet.clusters["sim-0"].nodes[0]
    fleet.clusters["sim-0"].label_node({f"{LABEL_PREFIX}gpu-0": "wrong", f"{LABEL_PREFIX}gpu-9": "9"}, node)
    async with fleet.running():
        await fleet.labelled()
        await fleet.stays(fleet.truth())
        assert fleet.patches() == before + 1


async def test_with_labels_off_nothing_is_written_or_removed(fleet: Fleet) -> None:
    async with fleet.running():
        await fleet.labelled()
        before, nodes = fleet.patches(), fleet.labels()
        path = fleet.folder / "gpuid.toml"
        path.write_text(fleet.settings(labels=False))
        await fleet.service.reload(path)
        fleet.clusters["sim-0"].swap_tray()
        await fleet.read()
        await fleet.stays(nodes)
        path.write_text(fleet.settings())
        await fleet.service.reload(path)
        await fleet.labelled()
        assert fleet.patches() == before + 1


async def test_a_standby_writes_nothing_until_it_leads(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Leadership, "leads", property(lambda _self: False))
        async with fleet.running():
            await fleet.read()
            await fleet.stays({node: {} for node in fleet.clusters["sim-0"].nodes})
            patched.undo()
            await fleet.labelled()


async def test_labels_follow_gpus_that_are_replaced_and_that_move(fleet: Fleet) -> None:
    east = fleet.clusters["sim-0"]
    first, second, _third = east.nodes
    async with fleet.running():
        await fleet.labelled()
        old = fleet.labels()[first]
        east.swap_tray(first)
        await fleet.labelled()
        assert fleet.labels()[first] != old
        east.move_gpu(first, second)
        await fleet.labelled()
        assert [len(fleet.labels()[node]) for node in (first, second)] == [3, 5]
        east.move_gpu(second, first)
        await fleet.labelled()
        assert [len(fleet.labels()[node]) for node in (first, second)] == [4, 4]


async def test_labels_follow_a_gpu_into_another_cluster(fleet: Fleet) -> None:
    async with fleet.running():
        await fleet.labelled("sim-0")
        await fleet.labelled("sim-1")
        fleet.clusters["sim-0"].move_gpu(to_cluster="sim-1")
        await fleet.labelled("sim-0")
        await fleet.labelled("sim-1")


async def test_nothing_is_written_while_a_claim_is_unsettled(fleet: Fleet) -> None:
    east = fleet.clusters["sim-0"]
    first, second, _ = east.nodes
    async with fleet.running():
        await fleet.labelled()
        before, patches = fleet.labels(), fleet.patches()
        east.slow_exec(3600.0, first)  # the home cannot answer
        east.move_gpu(first, second)
        await eventually(lambda: fleet.service.inventory.claims("sim-0"), 1)
        await fleet.stays(before)
        assert fleet.patches() == patches
        east.heal_exec()
        east.replace_pod(first)
        await fleet.labelled()


async def test_a_node_that_cannot_be_read_keeps_its_labels(fleet: Fleet) -> None:
    east = fleet.clusters["sim-0"]
    first = east.nodes[0]
    async with fleet.running():
        await fleet.labelled()
        before = fleet.labels()
        east.fail_exec(node=first)
        east.swap_tray(first)
        await eventually(lambda: fleet.service.inventory.nodes("sim-0")[first].failing)
        await fleet.stays(before)
        east.remove_pod(first)
        await eventually(lambda: fleet.service.inventory.nodes("sim-0")[first].uncovered)
        await fleet.stays(before)
        east.heal_exec()
        east.restore_pod(first)
        await fleet.labelled()


async def test_unresponsive_gpus_keep_their_labels(fleet: Fleet) -> None:
    east = fleet.clusters["sim-0"]
    first = east.nodes[0]
    async with fleet.running():
        await fleet.labelled()
        before = fleet.labels()
        east.lose_gpu(first, listed=True)
        await eventually(lambda: fleet.service.inventory.nodes("sim-0")[first].lost, 1)
        await fleet.stays(before)


async def test_a_complete_reading_without_gpus_removes_the_labels(fleet: Fleet) -> None:
    async with fleet.running():
        await fleet.labelled()
        before = fleet.labels()
        state = fleet.service.inventory.nodes("sim-0")[fleet.clusters["sim-0"].nodes[0]]
        assert state.fingerprint is not None
        reading = Reading(
            cluster="sim-0",
            node=state.node,
            source=state.source,
            fingerprint=state.fingerprint,
            time=time.time(),
            driver_version=None,
            cuda_version=None,
            gpus=(),
        )
        partial = msgspec.structs.replace(reading, gpus=state.gpus[:1], partial=True)
        fleet.service.observer.on_reading(partial, 0.1)
        await fleet.stays(before)
        fleet.service.observer.on_reading(reading, 0.1)
        await eventually(lambda: fleet.labels() == before | {state.node.name: {}})


@pytest.mark.parametrize("partial", [True, False])
async def test_after_a_restart_the_labels_of_a_partial_reading_stay(fleet: Fleet, partial: bool) -> None:
    first = fleet.clusters["sim-0"].nodes[0]
    async with fleet.running(labels=False):
        await fleet.read()
        state = fleet.service.inventory.nodes("sim-0")[first]
        assert state.fingerprint is not None
        reading = Reading(
            cluster="sim-0",
            node=state.node,
            source=state.source,
            fingerprint=state.fingerprint,
            time=time.time(),
            driver_version=None,
            cuda_version=None,
            gpus=state.gpus,
            partial=partial,
        )
        fleet.service.observer.on_reading(reading, 0.1)
    wanted = fleet.truth() | ({first: {}} if partial else {})
    execs = fleet.execs()
    async with fleet.running():
        await eventually(lambda: fleet.labels() == wanted)
        await fleet.stays(wanted)
    assert fleet.execs() == execs


async def test_a_new_machine_under_an_old_name_gets_its_own_labels(fleet: Fleet) -> None:
    east = fleet.clusters["sim-0"]
    first = east.nodes[0]
    async with fleet.running():
        await fleet.labelled()
        east.delete_node(first)
        await eventually(lambda: first not in fleet.service.inventory.nodes("sim-0"))
        east.add_node(first)
        await fleet.labelled()


async def test_a_missing_right_is_one_problem_until_granted(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    east = fleet.clusters["sim-0"]
    east.deny("patch", "nodes")
    async with fleet.running():
        await eventually(lambda: fleet.failures(LabelFailure.FORBIDDEN) >= 3)
        trouble = fleet.service.view().label_trouble("sim-0")
        assert trouble is not None
        assert (trouble.reason, trouble.nodes) == (LabelFailure.FORBIDDEN, None)
        assert "`gpuid grant` prints the missing right" in trouble.message
        warnings = [one for one in caplog.records if one.getMessage().startswith("label write failed")]
        assert len([one for one in warnings if one.levelname == "WARNING"]) == 1
        assert fleet.execs() == 3
        east.allow()
        await fleet.labelled()
        await eventually(lambda: fleet.service.view().label_trouble("sim-0") is None)


async def test_a_failing_server_is_retried(fleet: Fleet) -> None:
    async with fleet.running():
        await fleet.labelled()
        fleet.clusters["sim-0"].throttle(3, retry_after=0)
        fleet.clusters["sim-0"].swap_tray(fleet.clusters["sim-0"].nodes[0])
        await fleet.labelled()


async def test_labels_changed_by_another_client_are_rewritten_then_delayed(fleet: Fleet) -> None:
    east = fleet.clusters["sim-0"]
    first = east.nodes[0]
    async with fleet.running():
        await fleet.labelled()
        before = fleet.patches()
        east.label_node({f"{LABEL_PREFIX}gpu-0": "mine", f"{LABEL_PREFIX}owner": "ada"}, first)
        truth = fleet.truth()
        truth[first][f"{LABEL_PREFIX}owner"] = "ada"
        await eventually(lambda: fleet.labels() == truth)
        assert fleet.patches() == before + 1
        east.label_node({f"{LABEL_PREFIX}gpu-0": "mine"}, first)
        await eventually(lambda: fleet.failures(LabelFailure.CONTESTED), 2.0)
        await fleet.stays(fleet.labels())
        assert fleet.patches() == before + 1
        trouble = fleet.service.view().label_trouble("sim-0")
        assert trouble is not None
        assert (trouble.reason, trouble.nodes) == (LabelFailure.CONTESTED, 1)
        east.swap_tray(first)  # what is to be said is new
        truth = fleet.truth()
        truth[first][f"{LABEL_PREFIX}owner"] = "ada"
        await eventually(lambda: fleet.labels() == truth)
        await eventually(lambda: fleet.service.view().label_trouble("sim-0") is None)
