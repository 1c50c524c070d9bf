"""Hostile API servers among healthy clusters: `python -m tests.benchmarks.hostile [KIND …] [--seconds N]`.

The healthy ones must not notice: they are read as often and as fast as without it, /healthz responds in time, and
memory
stays within the limit of the Deployment. Each kind is alone here; in the tests, several are there at a time.
"""

import argparse
import contextlib
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.benchmarks.processes import running, simulated
from tests.benchmarks.table import HEAD, Row, amount, duration, markdown
from tests.support.hostile import KINDS
from tests.support.processes import CollectorProcess, free_ports
from tests.support.waiting import until

__all__ = ["SECONDS", "Neighbours", "Seen", "neighbours", "noticed"]

SECONDS = 15.0  # for each kind
CLUSTERS, NODES, GPUS = 20, 10, 8  # healthy ones
REFRESH_SECONDS = 10  # of the healthy ones: twenty readings a second
LOOP_SHARE = 0.25  # of a hostile cluster, or of several together: the default
HEALTHZ_SECONDS = 1.0  # in which /healthz must answer, five times as fast as the Deployment asks for
MEMORY_BYTES = 1 << 30  # that the Deployment may have
# A machine that does other things as well may take its time; a starved event loop takes seconds for each reading.
SLOWER, NOISE_SECONDS = 2.0, 0.1
LATE_SECONDS = 5.0  # after a node should have been read again
PROBE_SECONDS = 0.05  # between two requests of /healthz

_SAMPLE = re.compile(r'^(gpuid_\w+)\{cluster="([^"]*)"([^}]*)\} (\S+)$', re.MULTILINE)


class Seen(NamedTuple):
    """What was observed during one period."""

    readings: float  # of healthy clusters, a second
    seconds: float  # that one took on average
    failures: float  # of readings of healthy clusters
    oldest: float  # reading of a healthy node at the end, in seconds
    down: tuple[str, ...]  # healthy clusters that were not up at some time
    healthz: float  # the slowest, in seconds
    memory: float  # the most, in bytes
    cpu: float  # cores of the collector on average
    states: Mapping[str, Sequence[str]]  # of each hostile cluster, as they came


def noticed(seen: Seen, alone: Seen) -> list[str]:
    """Return what the healthy clusters, or the operator of the collector, noticed of the hostile ones.

    `alone` is what was seen without these.
    """
    late = REFRESH_SECONDS + LATE_SECONDS
    checks = {
        f"a reading took {duration(seen.seconds)} instead of {duration(alone.seconds)}": (
            seen.seconds > alone.seconds * SLOWER + NOISE_SECONDS
        ),
        f"{seen.failures:.0f} readings failed": seen.failures > 0,
        f"a node was read {duration(seen.oldest)} ago": seen.oldest > late,
        f"{', '.join(seen.down)} went down": bool(seen.down),
        f"/healthz took {duration(seen.healthz)}": seen.healthz >= HEALTHZ_SECONDS,
        f"it had {amount(seen.memory)}": seen.memory >= MEMORY_BYTES,
    }
    for kind, states in seen.states.items():
        # One of several may not get as far as its limit, for they share what one may use of the event loop.
        expected = {KINDS[kind].outcome, *(() if len(seen.states) == 1 else ("starting", "up"))}
        checks[f"{kind} is {states[-1] if states else 'unknown'}"] = KINDS[
            kind
        ].outcome != "" and not expected.intersection(states[-1:])
    return [what for what, wrong in checks.items() if wrong]


class Neighbours:
    """A collector of healthy clusters, to which hostile ones can be added."""

    def __init__(self, process: CollectorProcess, fleet: Path, hostile: Path, clusters: int) -> None:
        self._process = process
        self._fleet, self._hostile = fleet, hostile
        self.healthy = {f"sim-{index}" for index in range(clusters)}
        self.configure()
        process.start()

    def configure(self, *kinds: str) -> None:
        """Watch the healthy clusters, and hostile ones of these kinds that share what one may use of the event loop."""
        tables = "".join(
            f'[[clusters]]\ncontext = "{kind}"\nkubeconfig = "{self._hostile}"\n'
            f"loop_share = {LOOP_SHARE / len(kinds)}\n"
            for kind in kinds
        )
        before = f'[defaults]\nrefresh = "{REFRESH_SECONDS}s"\n'
        self._process.configure(dict.fromkeys(sorted(self.healthy), self._fleet), before=before, after=tables)

    def settle(self, gpus: int) -> None:
        """Wait until everything healthy has been read, and the cost of that is over."""
        until(lambda: (self._process.total("gpuid_read_success_total") or 0) * GPUS >= gpus)
        time.sleep(3)

    def watch(self, *kinds: str, seconds: float) -> Seen:
        """Return what is seen while hostile clusters are there, from the moment in which they are added."""
        seen = self._measure(kinds, seconds, lambda: self.configure(*kinds))
        self.configure()
        time.sleep(1)
        return seen

    def alone(self, seconds: float) -> Seen:
        """Return what is seen without a hostile cluster."""
        return self._measure((), seconds, lambda: None)

    def crashes(self) -> int:
        """Count what the collector has logged of tasks and readings that failed unexpectedly."""
        return self._process.logged("crashed") + self._process.logged("unexpected error")

    def _measure(self, kinds: Sequence[str], seconds: float, before: Callable[[], None]) -> Seen:
        probe = _Probe(self._process, kinds, self.healthy)
        with probe:
            counted = self._count()
            started, cpu = time.perf_counter(), self._process.cpu_seconds()
            before()
            time.sleep(seconds)
            count, spent, failures, oldest = self._count()
            elapsed, cpu = time.perf_counter() - started, self._process.cpu_seconds() - cpu
        done = max(1.0, count - counted[0])
        return Seen(
            readings=done / elapsed,
            seconds=(spent - counted[1]) / done,
            failures=failures - counted[2],
            oldest=time.time() - oldest,
            down=tuple(sorted(probe.down)),
            healthz=probe.slowest,
            memory=probe.memory,
            cpu=cpu / elapsed,
            states=probe.states,
        )

    def _count(self) -> tuple[float, float, float, float]:
        """Return of the healthy clusters' readings the number, the seconds, the failures, and the oldest's time."""
        total, oldest = dict.fromkeys(_COUNTED, 0.0), time.time()
        for name, cluster, _, value in _SAMPLE.findall(self._process.text("/metrics")):
            if cluster not in self.healthy:
                continue
            if name in total:
                total[name] += float(value)
            elif name == "gpuid_node_read_timestamp_seconds":
                oldest = min(oldest, float(value))
        count, spent, failures = total.values()
        return count, spent, failures, oldest


_COUNTED = ("gpuid_read_duration_seconds_count", "gpuid_read_duration_seconds_sum", "gpuid_read_failure_total")


class _Probe:
    """Polls a collector's health several times a second, in threads."""

    def __init__(self, process: CollectorProcess, kinds: Sequence[str], healthy: set[str]) -> None:
        self.slowest = 0.0
        self.memory = 0.0
        self.states: dict[str, list[str]] = {kind: [] for kind in kinds}
        self.down: set[str] = set()
        self._process = process
        self._healthy = healthy
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask), threading.Thread(target=self._look)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with httpx.Client(base_url=self._process.url, timeout=30) as client:
            while not self._over.wait(PROBE_SECONDS):
                started = time.perf_counter()
                with contextlib.suppress(httpx.TransportError):
                    client.get("/healthz").raise_for_status()
                self.slowest = max(self.slowest, time.perf_counter() - started)

    def _look(self) -> None:
        while not self._over.wait(1.0):
            self.memory = max(self.memory, self._process.memory())
            for name, cluster, more, _ in _SAMPLE.findall(self._process.text("/metrics")):
                if name != "gpuid_cluster_state":
                    continue
                state = more.partition('state="')[2].partition('"')[0]
                if cluster in self._healthy and state != "up":
                    self.down.add(cluster)
                states = self.states.get(cluster)
                if states is not None and state not in states[-1:]:
                    states.append(state)


@contextlib.contextmanager
def neighbours(folder: Path, *, clusters: int = CLUSTERS, nodes: int = NODES) -> Iterator[Neighbours]:
    """Start healthy clusters, hostile servers and a collector, and wait until everything healthy is read."""
    (port,) = free_ports(1)
    hostile = folder / "hostile.kubeconfig"
    entries = [{"name": kind, "cluster": {"server": f"http://127.0.0.1:{port}/{kind}"}} for kind in KINDS]
    contexts = [{"name": kind, "context": {"cluster": kind, "user": "user"}} for kind in KINDS]
    users = [{"name": "user", "user": {"token": "token"}}]
    hostile.write_text(json.dumps({"clusters": entries, "contexts": contexts, "users": users}))
    with (
        simulated(folder, clusters, nodes, GPUS, "20ms") as fleet,
        running([sys.executable, "-m", "tests.support.hostile", str(port)]),
    ):
        process = CollectorProcess(folder)
        found = Neighbours(process, fleet.kubeconfig, hostile, clusters)
        try:
            found.settle(clusters * nodes * GPUS)
            yield found
        finally:
            process.stop()


def rows(kinds: Sequence[str], seconds: float) -> Iterator[tuple[Row, list[str]]]:
    """Measure each kind among healthy clusters; yield it with what they noticed of it."""
    with tempfile.TemporaryDirectory() as name, neighbours(Path(name)) as healthy:
        alone = healthy.alone(SECONDS)
        what = f"{CLUSTERS} clusters × {NODES} nodes, each read every {REFRESH_SECONDS} s, for {SECONDS:g} s"
        yield Row(what, _described(alone), "", ""), []
        for kind in kinds:
            seen = healthy.watch(kind, seconds=seconds)
            yield (
                Row(
                    f"… with `{kind}` ({' → '.join(seen.states[kind])})",
                    _described(seen),
                    f"{duration(alone.seconds)}: without it",
                    f"{seen.seconds / alone.seconds:.2f} × as long",
                    "as long; < 1 s; < 1 GiB",
                ),
                noticed(seen, alone),
            )


def _described(seen: Seen) -> str:
    pace = f"{seen.readings:.1f} readings a second of {duration(seen.seconds)}, the oldest {duration(seen.oldest)} ago"
    return f"{pace}; /healthz at most {duration(seen.healthz)}; {amount(seen.memory)}; {seen.cpu:.0%} of a core"


def main() -> int:
    """Print the rows of the chosen kinds as they come; return 1 if any was noticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.hostile", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: all of {', '.join(KINDS)}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each kind; default: %(default)g")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"there is no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    print(HEAD, flush=True)
    failed = 0
    for row, faults in rows(options.kinds or list(KINDS), options.seconds):
        print(markdown(row), flush=True)
        for fault in faults:
            failed = 1
            print(f"noticed: {fault}", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
