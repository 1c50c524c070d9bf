"""A fleet with every kind of problem at once, two collectors that watch it, and a Prometheus that scrapes both."""

import contextlib
import math
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx
import pytest

from collector.marks import MarkKind, NewMark
from collector.store import OpenMode, Store, StoreSettings
from tests.support.http import served
from tests.support.processes import CollectorProcess, Process
from tests.support.prometheus import Prometheus, answers, scraping
from tests.support.waiting import until

CLUSTERS, NODES, GPUS = 5, 3, 4
TICKET = "https://tickets.example.com/1"
FAILING = {"row_remap_failure": True, "remapped_rows_uncorrectable": 9, "ecc_dram_uncorrectable": 2}
LABEL = "k8s"  # of the clusters at another collector
LABEL_SCRAPE_SECONDS = 3  # of which less is asked

DEFAULTS = """
[defaults]
kubeconfig = "{kubeconfig}"
refresh = "10s"
grace = "1s"

[metrics]
cluster_label = "{label}"
"""
STORE_AND_SINKS = """
[store]
url = "sqlite:///{store}"

[sinks.log]
type = "stdout"
batch_age = "1s"

[sinks.gone]
type = "webhook"
url = "http://127.0.0.1:{closed}/"
batch_age = "1s"

[sinks.strict]
type = "webhook"
url = "{strict}"
batch_age = "1s"
"""


class Troubled(NamedTuple):
    """What has happened, and the Prometheus that saw it."""

    prometheus: Prometheus
    labelled: Prometheus  # the same, of a collector whose label for the cluster is LABEL
    start: float  # Unix seconds, when all was well
    now: float  # Unix seconds, when every trouble had been scraped several times
    serial: str  # of the GPU that moved
    uuid: str
    cluster: str  # where it is now
    node: str
    gpus: int  # physical GPUs that are published now

    @property
    def range(self) -> int:
        """Seconds from the start to now."""
        return math.ceil(self.now - self.start)


@pytest.fixture(scope="session")
def troubled(prometheus_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Troubled]:
    """A GPU moved, one is missing, one node is gone, one cannot be read; a cluster is away, one refuses the token.

    The GPU that moved needs replacement and is marked, another one needs a reset, and one has new uncorrectable errors.
    One node has GPUs by its label and no GPU pod.

    One cluster claims the very GPUs of another one, so that they are in conflict; one is configured twice. One sink is
    away, one refuses all.
    """
    folder = tmp_path_factory.mktemp("troubled")
    with contextlib.ExitStack() as stack:
        fleet, twin = _Fleet(folder, CLUSTERS), _Fleet(folder / "twin", 1)
        for simulated in (fleet, twin):
            stack.callback(simulated.process.stop, signal.SIGKILL)
            simulated.start()
        for number in range(NODES):  # other nodes than those of sim-0, which by its seed has the same GPUs
            twin.do("sim-0", "delete_node", node=f"gpu-{number:04d}")
        for number in range(NODES):
            twin.do("sim-0", "add_node", node=f"gpu-{number:04d}")
        strict = stack.enter_context(_refuses_everything())
        closed = stack.enter_context(socket.socket())  # bound and never listening: nobody else gets the port
        closed.bind(("127.0.0.1", 0))
        collectors = [
            _collector(folder / name, (fleet.kubeconfig, twin.kubeconfig), strict, closed.getsockname()[1], label)
            for name, label in (("one", "cluster"), ("two", "cluster"), ("labelled", LABEL))
        ]
        for collector in collectors:
            stack.callback(collector.stop, signal.SIGKILL)
            collector.start()
        for collector in collectors:
            until(lambda: answers(f"{collector.url}/readyz", collector))  # noqa: B023  used at once
        *urls, labelled = [collector.url for collector in collectors]
        server = stack.enter_context(scraping(prometheus_program, folder, urls))
        other = stack.enter_context(
            scraping(
                prometheus_program,
                folder / "other",
                [labelled],
                cluster_label=LABEL,
                scrape_seconds=LABEL_SCRAPE_SECONDS,
            )
        )
        yield _get_into_trouble(fleet, server, other, [collector.folder for collector in collectors])


def _wear(fleet: "_Fleet") -> str:
    """Let cards degrade, and return the UUID of the one that moves later."""
    (moved,) = fleet.do("sim-1", "wear_gpu", node="gpu-0000", index=0, **FAILING)["gpus"]
    fleet.do("sim-0", "wear_gpu", node="gpu-0001", index=0, row_remap_pending=True, remapped_rows_uncorrectable=3)
    return moved


def _get_into_trouble(fleet: "_Fleet", server: Prometheus, labelled: Prometheus, folders: list[Path]) -> Troubled:
    def well() -> bool:
        at = time.time() - 5  # a look back over the whole range, in whole seconds, must find it too
        return all(
            len(one.query("gpuid_node_info", at)) == collectors * (CLUSTERS + 1) * NODES
            and bool(one.query("DCGM_FI_DEV_GPU_TEMP", at))
            for one, collectors in ((server, 2), (labelled, 1))
        )

    until(well, seconds=120)
    start = time.time() - 2  # so that a scrape before the first trouble is within the range
    moved = _wear(fleet)
    for folder in folders:
        anyio.run(_mark, folder, moved)

    def worn() -> bool:
        """Whether both servers show the card that moves next as degraded and marked, in what alerts look back at."""
        series = ("gpuid_gpu_degraded", "cluster_node_uuid:gpuid_gpu_mark_info:max")
        return all(one.query(f'{name}{{uuid="{moved}"}}') for one in (server, labelled) for name in series)

    until(worn, seconds=120)
    fleet.do("sim-0", "wear_gpu", node="gpu-0001", index=1, ecc_dram_uncorrectable=5)
    fleet.do("sim-1", "move_gpu", node="gpu-0000", uuid=moved, to_cluster="sim-2", to_node="gpu-0000")
    fleet.do("sim-1", "lose_gpu", node="gpu-0001")
    fleet.do("sim-1", "delete_node", node="gpu-0002")
    fleet.do("sim-1", "label_node", node="cpu-0000", labels={"nvidia.com/gpu.present": "true"})
    fleet.do("sim-2", "fail_exec", node="gpu-0001", how="exit_status")
    fleet.do("sim-3", "stop")
    fleet.do("sim-4", "refuse_tokens")
    fleet.do("sim-4", "stop")  # which ends the watches, so that they ask again
    fleet.do("sim-4", "start")

    place = f'gpuid_gpu_info{{uuid="{moved}",cluster="sim-2",node="gpu-0000"}}'
    lasting = (
        (place, 2),
        (f'gpuid_gpu_degraded{{uuid="{moved}",cluster="sim-2",reason="row_remap_failure"}}', 2),
        ('gpuid_gpu_degraded{cluster="sim-0",reason="uncorrectable_ecc_growing"}', 2),
        ('gpuid_node_gpus{cluster="sim-1",node="gpu-0001",state="found"} == 3', 2),
        ('gpuid_unread_nodes{cluster="sim-1",reason="no_pod"} == 1', 2),
        ('gpuid_cluster_state{cluster="sim-3",state="unreachable"} == 1', 2),
        ('gpuid_cluster_state{cluster="sim-4",state="unauthorized"} == 1', 2),
        ('gpuid_export_backlog_records{sink="gone"} > 0', 2),
        ('gpuid_export_dead_letters{sink="strict"} > 0', 2),
        ('gpuid_gpu_conflicts{cluster="twin"} == 12', 2),
        ('gpuid_cluster_state{cluster="again",state="duplicate"}', 2),
        ('absent(gpuid_gpu_info{cluster="sim-1",node="gpu-0002"})', 1),
        (f'absent(gpuid_gpu_info{{cluster="sim-1",uuid="{moved}"}})', 1),
    )
    passing = (
        (f"count_over_time({place}[1m]) >= 20", 2),  # longer than the steps of every dashboard
        ('rate(gpuid_read_failure_total{cluster="sim-2",reason="exit_status"}[15s]) > 0', 2),
        ('rate(gpuid_watch_restarts_total{cluster="sim-3"}[15s]) > 0', 1),
        ('rate(gpuid_export_failure_total{sink="gone"}[15s]) > 0', 1),
    )

    def shown(query: str, series: int, at: float | None = None) -> bool:
        """Whether both servers answer a query with this many series, of two collectors and of one."""
        renamed = query.replace("cluster=", f"{LABEL}=").replace(">= 20", f">= {20 // LABEL_SCRAPE_SECONDS}")
        return len(server.query(query, at)) >= series and len(labelled.query(renamed, at)) >= 1

    for query, series in (*lasting, *passing):
        until(lambda: (query, shown(query, series)), (query, True), seconds=120)  # noqa: B023
    now = 0.0

    def settled() -> bool:
        """Whether at this instant all that lasts is shown, and no scrape has just failed."""
        nonlocal now
        now = time.time()
        failed = server.query("up == 0", now) + labelled.query("up == 0", now)
        return not failed and all(shown(query, series, now) for query, series in lasting)

    until(settled, seconds=120)
    (serial,) = {one["metric"]["serial"] for one in server.query(place, now)}
    gpus = CLUSTERS * NODES * GPUS - 1 - GPUS  # one is lost, and a node with four is gone
    return Troubled(server, labelled, start, now, serial, moved, "sim-2", "gpu-0000", gpus)


async def _mark(folder: Path, uuid: str) -> None:
    """Mark a GPU in the store of a collector."""
    async with Store.open(StoreSettings(url=f"sqlite://{folder / 'gpuid.db'}"), OpenMode.OPERATOR) as store:
        await store.marks.set([uuid], NewMark(kind=MarkKind.RMA, ticket=TICKET), by="ops")


class _Fleet:
    """`gpuid simulate` as a process."""

    def __init__(self, folder: Path, clusters: int) -> None:
        folder.mkdir(exist_ok=True)
        self.kubeconfig = folder / "kubeconfig"
        sizes = ("--clusters", str(clusters), "--nodes", str(NODES), "--gpus", str(GPUS), "--for", "20m")
        self.process = Process(
            [sys.executable, "-m", "collector", "simulate", *sizes, "--kubeconfig", self.kubeconfig],
            folder / "simulator.log",
        )

    def start(self) -> None:
        """Start it, and wait until it accepts commands."""
        self.process.start()
        until(lambda: "Control" in self.process.tail())
        (self._control,) = re.findall(r"^Control +(\S+)$", self.process.tail(), re.MULTILINE)

    def do(self, cluster: str, action: str, **arguments: Any) -> dict[str, list[str]]:
        """Make something happen."""
        answer = httpx.post(f"{self._control}/clusters/{cluster}/{action}", json=arguments, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()


def _collector(folder: Path, kubeconfigs: tuple[Path, Path], strict: str, closed: int, label: str) -> CollectorProcess:
    folder.mkdir()
    collector = CollectorProcess(folder)
    twins = f'[[clusters]]\nname = "twin"\ncontext = "sim-0"\nkubeconfig = "{kubeconfigs[1]}"\n'
    twins += '[[clusters]]\nname = "again"\ncontext = "sim-0"\n'
    collector.configure(
        [f"sim-{number}" for number in range(CLUSTERS)],
        before=DEFAULTS.format(kubeconfig=kubeconfigs[0], label=label),
        after=twins + STORE_AND_SINKS.format(store=folder / "gpuid.db", closed=closed, strict=strict),
    )
    return collector


@contextlib.contextmanager
def _refuses_everything() -> Iterator[str]:
    """Serve 400, which no further try will change."""
    with served(lambda _headers, _body: (400, b"")) as address:
        yield f"http://{address}/"
