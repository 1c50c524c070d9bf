"""How long it takes from start to a full inventory, and what it costs: `python -m tests.benchmarks.read`.

The fleet is simulated in a process of its own (`gpuid simulate`), 20 ms of latency on each exec. The peer is the plain
way
to do the same with the Kubernetes client alone: `list` the pods, then `WsApiClient` execs with the same concurrency in
each cluster and the same parser, in one asyncio process, no watch, no inventory, no metrics.
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import tomli_w

from tests.plugins.processes import free_ports

GPUS = 8
LATENCY = "20ms"


class Cost(NamedTuple):
    """What one run took."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    requests: dict[str, int]  # "verb resource" -> count, as the simulated API servers saw them


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="1x1000,20x100", help="clusters x nodes, comma-separated")
    cases = [tuple(map(int, case.split("x"))) for case in parser.parse_args(arguments).cases.split(",")]
    print("| case | who | full inventory | CPU | peak memory | list | watch | exec/node | get |")
    print("|---|---|---|---|---|---|---|---|---|")
    for clusters, nodes in cases:
        case = f"{clusters} × {nodes:,} nodes"
        ours = measure(Collector, clusters, nodes)
        peer = measure(PlainClient, clusters, nodes)
        for who, cost in (("gpuid run", ours), ("kubernetes_asyncio alone", peer)):
            print(row(case, who, cost, clusters * nodes))
        print(
            f"| {case} | **ratio, peer ÷ gpuid** | {peer.seconds / ours.seconds:.2f} "
            f"| {peer.cpu_seconds / ours.cpu_seconds:.2f} | {peer.peak_mib / ours.peak_mib:.2f} | | | | |",
            flush=True,
        )


def row(case: str, who: str, cost: Cost, nodes: int) -> str:
    """One run as a row of the table."""

    def count(verb: str) -> int:
        return sum(number for key, number in cost.requests.items() if key.startswith(verb))

    return (
        f"| {case} | {who} | {cost.seconds:.1f} s | {cost.cpu_seconds:.1f} s | {cost.peak_mib:.0f} MiB "
        f"| {count('list')} | {count('watch')} | {count('exec') / nodes:.3f} | {count('get ')} |"
    )


def measure(run: "type[Run]", clusters: int, nodes: int) -> Cost:
    """Give one candidate a fresh fleet and account for its process."""
    with tempfile.TemporaryDirectory() as folder, simulated(Path(folder), clusters, nodes) as (kubeconfig, control):
        started = time.monotonic()
        process = run.start(Path(folder), kubeconfig, clusters)
        try:
            run.wait(process, clusters * nodes * GPUS)
            seconds = time.monotonic() - started
            cpu_seconds, peak_mib = usage(process.pid)
            asked = requests(control, clusters)
            if asked.get("exec pods") != clusters * nodes:
                raise SystemExit(f"{asked.get('exec pods')} execs for {clusters * nodes} nodes")
            return Cost(seconds, cpu_seconds, peak_mib, asked)
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def simulated(folder: Path, clusters: int, nodes: int) -> Iterator[tuple[Path, str]]:
    """A fleet in a process of its own: its kubeconfig and the URL of its control server."""
    kubeconfig = folder / "kubeconfig"
    command = [sys.executable, "-m", "collector", "simulate", "--clusters", str(clusters), "--nodes", str(nodes)]
    command += ["--gpus", str(GPUS), "--latency", LATENCY, "--kubeconfig", str(kubeconfig)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"curl .*?(http://[0-9.:]+)", line):
                break
        else:
            raise SystemExit("the simulator did not start")
        yield kubeconfig, found[1]
    finally:
        process.terminate()
        process.wait(30)


def requests(control: str, clusters: int) -> dict[str, int]:
    """What the simulated API servers were asked, summed over the clusters."""
    total: dict[str, int] = {}
    for index in range(clusters):
        for key, number in httpx.get(f"{control}/clusters/sim-{index}").json()["counters"]["requests"].items():
            total[key] = total.get(key, 0) + number
    return total


def usage(pid: int) -> tuple[float, float]:
    """CPU seconds so far and peak memory in MiB, as the kernel accounts for a process."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak is not None
    return cpu, int(peak[1]) / 1024


class Run:
    """A candidate: how to start it and how to know that it has everything."""

    @classmethod
    def start(cls, folder: Path, kubeconfig: Path, clusters: int) -> subprocess.Popen[bytes]:
        """Start the process."""
        raise NotImplementedError

    @classmethod
    def wait(cls, process: subprocess.Popen[bytes], gpus: int) -> None:
        """Return as soon as the process has found `gpus` GPUs."""
        raise NotImplementedError


class Collector(Run):
    """`gpuid run` with its default settings."""

    port = 0

    @classmethod
    def start(cls, folder: Path, kubeconfig: Path, clusters: int) -> subprocess.Popen[bytes]:
        """Start with a configuration that names every context."""
        (cls.port,) = free_ports(1)
        config = folder / "gpuid.toml"
        contexts = [{"context": f"sim-{index}", "kubeconfig": str(kubeconfig)} for index in range(clusters)]
        config.write_text(tomli_w.dumps({"server": {"listen": f"127.0.0.1:{cls.port}"}, "clusters": contexts}))
        return subprocess.Popen([sys.executable, "-m", "collector", "run", "-c", str(config), "--log-level", "error"])

    @classmethod
    def wait(cls, process: subprocess.Popen[bytes], gpus: int) -> None:
        """Ask the API for its total."""
        with httpx.Client(base_url=f"http://127.0.0.1:{cls.port}", timeout=5) as client:
            deadline = time.monotonic() + 600
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    raise SystemExit("the collector ended")
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/api/v1/gpus", params={"limit": 1}).json()["total"] >= gpus:
                        return
                time.sleep(0.05)
        raise SystemExit("the collector did not find every GPU")


class PlainClient(Run):
    """The peer, in a process of its own."""

    @classmethod
    def start(cls, folder: Path, kubeconfig: Path, clusters: int) -> subprocess.Popen[bytes]:
        """Start this file's own coroutine."""
        command = [sys.executable, "-m", "tests.benchmarks.read_peer", str(kubeconfig), str(clusters)]
        return subprocess.Popen(command, stdout=subprocess.PIPE)

    @classmethod
    def wait(cls, process: subprocess.Popen[bytes], gpus: int) -> None:
        """Read the number it prints when it is done; it then stays until ended, to be accounted for."""
        assert process.stdout is not None
        if (found := int(process.stdout.readline() or 0)) < gpus:
            raise SystemExit(f"the peer found {found} of {gpus} GPUs")


if __name__ == "__main__":
    main()
