"""When labels are written onto nodes and when they are not, with an API server that answers what a test says."""

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import msgspec
import pytest

from collector.backoff import Backoff
from collector.collect.label_writer import LabelPolicy, LabelWriter
from collector.collect.node_labels import LABEL_PREFIX, own_labels
from collector.collect.node_queue import NodeQueue
from collector.collect.objects import NodeObject
from collector.config import ClusterSettings
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError, ForbiddenError, NotFoundError, ServerError, UnreachableError
from collector.kube.limits import LoopShare
from collector.model import Fingerprint, Gpu, LabelFailure, NodeInfo, NodeState, Place
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

POLICY = LabelPolicy(
    poll=0.01,
    settle=0.2,
    retry=Backoff(initial=0.01, maximum=0.02),
    contest=Backoff(initial=3600.0, maximum=3600.0),
)
READ = Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=1)
GPU = {f"{LABEL_PREFIX}gpu-0": "1650122000001"}
OTHER = {f"{LABEL_PREFIX}gpu-0": "1650122000002"}


@dataclasses.dataclass
class Session:
    share: LoopShare = dataclasses.field(default_factory=lambda: LoopShare(1.0))


class World:
    """A cluster of one node as its queue has it, what is known of its GPUs, and an API server that patches it."""

    def __init__(self) -> None:
        self.session = Session()
        self.paused = False
        self.leads = True
        self.claimed = False
        self.read: Fingerprint | None = READ  # what a reading made now would depend on
        self.kept: dict[str, NodeObject] = {}  # as the watch has shown them
        self.state: NodeState | None = None
        self.errors: list[Exception] = []  # that the API answers next
        self.echoes = True
        self.bodies: list[dict[str, Any]] = []
        self.options: list[dict[str, Any]] = []
        self.written = 0
        self.failures: Counter[LabelFailure] = Counter()
        self._version = 0
        settings = ClusterSettings(context="c", labels=True)
        self.writer = LabelWriter(settings, cast("NodeQueue", self), self, policy=POLICY)
        self.find("1650122000001")

    # What the writer asks for

    def node(self, name: str) -> NodeObject | None:
        return self.kept.get(name)

    def fingerprint(self, name: str) -> Fingerprint | None:
        return self.read

    def may_write(self) -> bool:
        return self.leads

    def settled(self, cluster: str, node: str) -> NodeState | None:
        return self.state

    def in_claim(self, state: NodeState) -> bool:
        return self.claimed

    def on_labels_written(self, cluster: str) -> None:
        self.written += 1

    def on_label_failure(self, cluster: str, reason: LabelFailure) -> None:
        self.failures[reason] += 1

    async def read_(self, _method: object, name: str, body: dict[str, Any], **options: Any) -> bytes:
        await anyio.lowlevel.checkpoint()
        self.bodies.append(body)
        self.options.append(options)
        if self.errors:
            raise self.errors.pop(0)
        if self.echoes:
            labels = dict(self.kept[name].own_labels) | body["metadata"]["labels"]
            self.show({key: value for key, value in labels.items() if value is not None})
        return b"{}"

    # What happens

    def find(self, serial: str) -> None:
        node = NodeInfo(name="n", uid="u")
        gpu = Gpu(uuid=f"GPU-{serial}", serial=serial)
        self.state = NodeState(place=Place("c", "n"), node=node, time=1.0, fingerprint=READ, gpus=(gpu,), since=(1.0,))
        self.writer.look_at("n")

    def show(self, labels: dict[str, str], uid: str = "u") -> None:
        """Let the watch show the node."""
        self._version += 1
        before = self.kept.get("n")
        after = NodeObject(
            version=str(self._version),
            facts=NodeInfo(name="n", uid=uid),
            own_labels=tuple(sorted(labels.items())),
        )
        self.kept["n"] = after
        self.writer.set_node(before, after)

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.kept["n"].own_labels)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.writer.run, cast("ApiClient", Client(self)))
            yield
            tasks.cancel_scope.cancel()

    async def quiet(self, patches: int) -> None:
        """See that no more is written than was."""
        await anyio.sleep(10 * POLICY.poll)
        assert len(self.bodies) == patches


class Client:
    """What the generated API class and the writer need of a client."""

    def __init__(self, world: World) -> None:
        self.session = world.session
        self.read = world.read_


@pytest.fixture
def world() -> World:
    return World()


def server_error(status: int, text: str = "said the server") -> ClusterError:
    return NotFoundError(text, status=404) if status == 404 else ServerError(text, status=status)


async def test_only_differences_are_patched_with_uid_and_field_manager(world: World) -> None:
    world.show(OTHER | {f"{LABEL_PREFIX}gpu-1": "2"})
    async with world.running():
        await eventually(lambda: world.labels == GPU)
        assert world.bodies == [{"metadata": {"uid": "u", "labels": GPU | {f"{LABEL_PREFIX}gpu-1": None}}}]
        assert world.options == [{"field_manager": "gpuid", "_content_type": "application/strategic-merge-patch+json"}]
        await world.quiet(1)
        assert world.written == 1


async def test_nothing_is_written_if_nothing_differs(world: World) -> None:
    world.show(GPU)
    async with world.running():
        await world.quiet(0)
        world.show(GPU)
        world.writer.look_at("n")
        await world.quiet(0)


@pytest.mark.parametrize("obstacle", ["standby", "view", "claim"])
async def test_transient_failures_are_retried(world: World, obstacle: str) -> None:
    world.leads, world.paused, world.claimed = obstacle != "standby", obstacle == "view", obstacle == "claim"
    world.show({})
    async with world.running():
        await world.quiet(0)
        world.leads, world.paused, world.claimed = True, False, False
        await eventually(lambda: world.labels == GPU)


@pytest.mark.parametrize("change", ["no pod", "reboot", "uid"])
async def test_changes_since_the_reading_wait_for_the_next_one(world: World, change: str) -> None:
    rebooted = msgspec.structs.replace(READ, boot_id="b2")
    world.read = {"no pod": None, "reboot": rebooted, "uid": READ}[change]
    world.show({}, uid="u2" if change == "uid" else "u")
    async with world.running():
        await world.quiet(0)
        world.read = READ
        world.show({}, uid="u")
        world.writer.look_at("n")
        await eventually(lambda: world.labels == GPU)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (server_error(409, "Conflict"), LabelFailure.CONFLICT),
        (server_error(422, 'Node "n" is invalid: metadata.uid: field is immutable'), LabelFailure.CONFLICT),
        (server_error(422, 'Node "n" is invalid: metadata.labels: Invalid value: "-"'), LabelFailure.INVALID),
        (ForbiddenError('admission webhook "guard.corp" denied the request: pinned'), LabelFailure.INVALID),
        (
            ForbiddenError(
                "nodes \"n\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no"
            ),
            LabelFailure.INVALID,
        ),
    ],
)
async def test_a_refused_node_is_retried_without_affecting_others(
    world: World, error: ClusterError, reason: LabelFailure, caplog: pytest.LogCaptureFixture
) -> None:
    world.errors = [error] * 2
    world.show({})
    async with world.running():
        await eventually(lambda: world.labels == GPU)
        assert (dict(world.failures), world.written, world.writer.trouble) == ({reason: 2}, 1, None)
        assert not any("gpuid grant" in text for text in caplog.messages)


async def test_a_deleted_node_is_not_retried(world: World) -> None:
    world.errors = [server_error(404)]
    world.show({})
    async with world.running():
        await eventually(lambda: world.failures == {LabelFailure.NOT_FOUND: 1})
        await world.quiet(1)
        assert world.writer.trouble is None
        world.show({}, uid="u")
        world.find("1650122000002")
        await eventually(lambda: world.labels == OTHER)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ForbiddenError("nodes is forbidden"), LabelFailure.FORBIDDEN),
        (UnreachableError("no answer"), LabelFailure.UNAVAILABLE),
        (server_error(500), LabelFailure.UNAVAILABLE),
    ],
)
async def test_a_failure_for_all_nodes_is_one_problem(
    world: World, error: ClusterError, reason: LabelFailure, caplog: pytest.LogCaptureFixture
) -> None:
    world.errors = [error] * 1000
    world.show({})
    async with world.running():
        await eventually(lambda: world.failures[reason] >= 3)
        trouble = world.writer.trouble
        assert trouble is not None
        assert (trouble.reason, trouble.nodes, str(error) in trouble.message) == (reason, None, True)
        assert [one.levelname for one in caplog.records if "label write failed" in one.message].count("WARNING") == 1
        world.errors = []
        await eventually(lambda: world.labels == GPU)
        await eventually(lambda: world.writer.trouble is None)


async def test_a_problem_ends_when_nothing_is_left_to_write(world: World) -> None:
    world.errors = [ForbiddenError("no")] * 1000
    world.show({})
    async with world.running():
        await eventually(lambda: world.writer.trouble)
        world.show(GPU)
        await eventually(lambda: world.writer.trouble is None)


async def test_a_bug_in_the_comparison_does_not_stop_the_writer(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_gpus: object) -> dict[str, str]:
        raise ValueError("a bug")

    world.show({})
    with monkeypatch.context() as patch:
        patch.setattr("collector.collect.label_writer.gpu_labels", fail)
        async with world.running():
            await eventually(lambda: world.failures[LabelFailure.INVALID] >= 2)
            trouble = world.writer.trouble
            assert trouble is not None
            assert trouble.reason is LabelFailure.INVALID
            patch.undo()
            await eventually(lambda: world.labels == GPU)
    assert caplog.messages.count("unexpected error while writing labels") == 1


async def test_a_bug_with_one_node_does_not_stop_the_writer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.errors = [ValueError("a bug")]
    world.show({})
    async with world.running():
        await eventually(lambda: world.labels == GPU)
        assert world.failures == {LabelFailure.INVALID: 1}
        assert "unexpected error while writing labels" in caplog.messages


async def test_a_delayed_watch_does_not_cause_a_second_patch(world: World) -> None:
    world.echoes = False
    world.show({})
    async with world.running():
        await eventually(lambda: world.written, 1)
        world.writer.look_at("n")
        await anyio.sleep(2 * POLICY.settle)
        world.writer.look_at("n")
        await world.quiet(1)
        world.show(GPU)
        await world.quiet(1)
        assert not world.failures


async def test_a_change_by_another_client_is_rewritten_once_then_reported(world: World) -> None:
    world.show({})
    async with world.running():
        await eventually(lambda: world.labels == GPU)
        world.show(OTHER)
        await eventually(lambda: world.labels == GPU)
        assert len(world.bodies) == 2
        assert world.writer.trouble is None
        world.show(OTHER)
        await eventually(lambda: world.failures[LabelFailure.CONTESTED], 2)
        world.show({})
        world.writer.look_at("n")
        await world.quiet(2)
        trouble = world.writer.trouble
        assert trouble is not None
        assert (trouble.reason, trouble.nodes) == (LabelFailure.CONTESTED, 1)
        world.find("1650122000002")
        await eventually(lambda: world.labels == OTHER)
        await eventually(lambda: world.writer.trouble is None)


async def test_excess_labels_are_removed_in_rounds_without_a_problem(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {f"{LABEL_PREFIX}gpu-{number}": "x" for number in range(10000, 11200)}

    def show() -> None:  # as a watch that brings the node with what is kept of its labels
        world.show(dict(own_labels(there)))

    async def patch(_method: object, _name: str, body: dict[str, Any], **_options: Any) -> bytes:
        await anyio.lowlevel.checkpoint()
        world.bodies.append(body)
        for key, value in body["metadata"]["labels"].items():
            there.pop(key, None)
            if value is not None:
                there[key] = value
        show()
        return b"{}"

    monkeypatch.setattr(world, "read_", patch)
    show()
    async with world.running():
        await eventually(lambda: there == GPU)
        await world.quiet(3)
        assert (dict(world.failures), world.writer.trouble) == ({}, None)


async def test_a_deleted_node_is_forgotten(world: World) -> None:
    world.errors = [server_error(422)] * 1000
    world.show({})
    async with world.running():
        await eventually(lambda: world.writer.trouble)
        gone = world.kept.pop("n")
        world.writer.set_node(gone, None)
        await eventually(lambda: world.writer.trouble is None)
