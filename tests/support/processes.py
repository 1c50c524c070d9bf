"""Programs that tests start: free ports for them, what they answer, and their guaranteed termination."""

import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from collector.simulator import Placed

__all__ = ["CollectorProcess", "Process", "free_ports"]


def free_ports(count: int) -> list[int]:
    """Return TCP ports of 127.0.0.1 in a row that nobody listens on, none handed out twice.

    They are below those that the system gives to whoever asks for any port, or to outgoing connections: one of these
    could be somebody else's by the time it is used. Each worker of pytest-xdist has ports of its own; GPUID_TEST_PORTS
    separates runs that share a network.
    """
    lowest, highest = map(int, os.environ.get("GPUID_TEST_PORTS", "16000-31999").split("-"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = (highest + 1 - lowest) // workers
    while True:
        first = lowest + worker * share + random.randrange(share - count)
        ports = range(first, first + count)
        if _handed_out.isdisjoint(ports) and all(map(_free, ports)):
            _handed_out.update(ports)
            return list(ports)


def _free(port: int) -> bool:
    with socket.socket() as one:
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_handed_out: set[int] = set()


class Process:
    """A program of the test: its output is in a file, and it ends with the test run, however that ends."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] = {}) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self.env = {**os.environ, **env}
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again if it was stopped."""
        guard = [setpriv, "--pdeathsig", "KILL", "--"] if (setpriv := shutil.which("setpriv")) else []
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*guard, *self.command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._popen is not None
        self._popen.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 10) -> int | None:
        """End it, at the latest by force, and return its exit status; None if it never ran."""
        if self._popen is None:
            return None
        self._popen.send_signal(number)
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def limit(self, which: int, value: int) -> None:
        """Set one of its resource limits, while it runs."""
        assert self._popen is not None
        resource.prlimit(self._popen.pid, which, (value, value))

    @property
    def running(self) -> bool:
        """False once it has ended."""
        return self._popen is not None and self._popen.poll() is None

    def memory(self) -> float:
        """The memory that it has at the moment, in bytes."""
        assert self._popen is not None
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self._popen.pid}/status").read_text())
        return float(found[1]) * 1024 if found else 0.0

    def cpu_seconds(self) -> float:
        """The time that it has spent on processors so far."""
        assert self._popen is not None
        stat = Path(f"/proc/{self._popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


class CollectorProcess(Process):
    """`gpuid run`, seen from outside: its configuration file, what it answers over HTTP, its log and its signals."""

    def __init__(self, folder: Path, name: str = "gpuid") -> None:
        self.folder = folder
        self.config = folder / f"{name}.toml"
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__([sys.executable, "-m", "collector", "run", "-c", self.config], folder / f"{name}.log")

    def configure(self, clusters: Iterable[str] | Mapping[str, Path], *, before: str = "", after: str = "") -> None:
        """Replace the configuration: `before` and `after` are TOML that comes before and after the clusters.

        Clusters are the contexts of the kubeconfig that `before` names, or each one's with its own kubeconfig.
        """
        text = f'{before}\n[server]\nlisten = "127.0.0.1:{self.port}"\n'
        for context in clusters:
            text += f'[[clusters]]\ncontext = "{context}"\n'
            if isinstance(clusters, Mapping):
                text += f'kubeconfig = "{clusters[context]}"\n'
        partial = self.config.with_suffix(".new")
        partial.write_text(text + after)
        partial.replace(self.config)

    def text(self, path: str) -> str:
        """Return what a path answers, whatever its status; nothing while nobody listens."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=30, verify=False).text  # without HTTPS, so verify nothing
        except httpx.TransportError:
            assert self.running, self.tail()
            return ""

    def scrape(self) -> list[tuple[str, dict[str, str], float]]:
        """Return every sample as name, labels and value."""
        families = text_string_to_metric_families(self.text("/metrics"))
        return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series of a name."""
        return [(labels, value) for found, labels, value in self.scrape() if found == name]

    def total(self, name: str, **labels: str) -> float | None:
        """Return the sum of a metric's series with these labels; None when there is none, or nobody answers."""
        found = [value for have, value in self.samples(name) if labels.items() <= have.items()]
        return sum(found) if found else None

    def gpus(self) -> set[Placed]:
        """Return every GPU in the scrape."""
        return {Placed(**{key: labels[key] for key in Placed._fields}) for labels, _ in self.samples("gpuid_gpu_info")}

    def up(self) -> dict[str, float]:
        """Return 1 for each cluster that is up, 0 for each other one."""
        return {labels["cluster"]: value for labels, value in self.samples("gpuid_cluster_up")}

    def events(self) -> list[dict[str, Any]]:
        """Return what it has logged; every line must be a JSON object."""
        return [line for line in self._lines() if "level" in line]

    def records(self) -> list[dict[str, Any]]:
        """Return what the stdout sink has been given."""
        return [line for line in self._lines() if "level" not in line]

    def logged(self, text: str, **fields: str) -> int:
        """Count the events that have this in their message, and these fields."""
        return sum(text in event["message"] and fields.items() <= event.items() for event in self.events())

    def _lines(self) -> Iterator[dict[str, Any]]:
        for line in self.log.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):  # the last one may still be under way
                yield json.loads(line)
