"""The largest fleet that one process is meant for, with the store on: memory, idling, a real Prometheus, a restart."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.benchmarks.processes import collector, running, simulated, usage, wait
from tests.benchmarks.table import Row, amount, duration, times
from tests.support.processes import free_ports

__all__ = ["rows"]

GPUS = 8
_PATIENCE = 3600.0  # seconds
_CHILDREN = 80_000  # series of the peer, which are enough to tell what each of them takes


def rows(*, small: bool = False) -> Iterator[Row]:
    """Start `gpuid run` on a store that knows 100 clusters × 1,000 nodes × 8 GPUs, and look at it from outside."""
    clusters, nodes = (2, 3) if small else (100, 1_000)
    what = f"{clusters} clusters × {nodes:,} nodes × {GPUS} GPUs, history on"
    with tempfile.TemporaryDirectory() as name, simulated(Path(name), clusters, nodes, GPUS, "20ms") as fleet:
        url = f"sqlite:///{name}/gpuid.db"
        sizes = (str(clusters), str(nodes), str(GPUS))
        command = [sys.executable, "-m", "tests.benchmarks.filling", str(fleet.kubeconfig), *sizes, url]
        # A few less than their number: of two pods to which chance gave one name, there is only one.
        gpus = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        settings = {"store": {"url": url}}
        with collector(Path(name), fleet.kubeconfig, clusters, **settings) as (process, client):
            total = {"limit": 1}
            found = wait(
                process, lambda: client.get("/api/v1/gpus", params=total).json()["total"] == gpus, seconds=_PATIENCE
            )
            ready = found + wait(process, lambda: client.get("/readyz").status_code == 200, seconds=_PATIENCE)
            if execs := fleet.requests().get("exec pods", 0):
                raise SystemExit(f"{execs} nodes were read again")
            yield Row(f"{what}: restart until all is published", f"{duration(found)}, no exec", "", "")
            yield Row(f"{what}: restart until every cluster is watched", duration(ready), "", "")
            time.sleep(0.1 if small else 10)  # what was started has ended
            share = _busy(process, 1.0 if small else 20.0)
            yield Row(f"{what}: CPU while nothing happens", f"{share:.1%} of one core", "", "", "nothing measurable")
            yield from _prometheus(Path(name), client, gpus, interval=1 if small else 15, scrapes=2 if small else 6)
            peak = usage(process.pid)[1]
            base, series = _peer_memory(small=small)
            yield Row(
                f"{what}: peak memory / prometheus-client's Gauge alone with as many children",
                amount(peak),
                amount(base + gpus * series),
                times((base + gpus * series) / peak),
                "< 1 GiB",
            )
            yield Row(f"{what}: peak memory for each GPU / a child of a Gauge", amount(peak / gpus), amount(series), "")


def _busy(process: "subprocess.Popen[Any]", seconds: float) -> float:
    """Measure the share of a core that it takes to watch clusters in which nothing happens."""
    before = usage(process.pid)[0]
    time.sleep(seconds)
    return (usage(process.pid)[0] - before) / seconds


def _prometheus(folder: Path, client: httpx.Client, gpus: int, *, interval: int, scrapes: int) -> Iterator[Row]:
    """Let a real Prometheus scrape everything as one target."""
    if (program := shutil.which("prometheus")) is None:
        return
    (port,) = free_ports(1)
    target = client.base_url.netloc.decode()
    job = {"job_name": "gpuid", "honor_labels": True, "static_configs": [{"targets": [target]}]}
    settings = {"global": {"scrape_interval": f"{interval}s", "scrape_timeout": f"{min(interval, 10)}s"}}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings | {"scrape_configs": [job]}))
    command = [program, "--config.file", folder / "prometheus.yml", "--storage.tsdb.path", folder / "data"]
    command += ["--web.listen-address", f"127.0.0.1:{port}", "--log.level", "error"]
    with running(command) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as server:

        def ask(query: str) -> float:
            answer = server.get("/api/v1/query", params={"query": query})
            if answer.status_code != 200:  # it is starting
                return 0.0
            result = answer.json()["data"]["result"]
            return float(result[0]["value"][1]) if result else 0.0

        window = f"{interval * (scrapes + 4)}s"
        wait(process, lambda: ask(f"count_over_time(up[{window}])") >= scrapes, seconds=_PATIENCE, every=interval / 4)
        done, good = ask(f"count_over_time(up[{window}])"), ask(f"sum_over_time(up[{window}])")
        if (stored := ask("count(gpuid_gpu_info)")) != gpus:
            raise SystemExit(f"Prometheus has {stored:,.0f} of {gpus:,} GPUs")
        yield Row(
            f"scrapes of {gpus:,} GPUs by Prometheus at an interval of {interval} s: dropped",
            f"{done - good:.0f} of {done:.0f}",
            "",
            "",
            "0",
        )
        yield Row(
            f"scrapes of {gpus:,} GPUs by Prometheus: longest, its own parsing and storing included",
            duration(ask(f"max_over_time(scrape_duration_seconds[{window}])")),
            "",
            "",
        )


def _peer_memory(*, small: bool) -> tuple[float, float]:
    """Measure prometheus-client in a process of its own: bytes without and for each series."""
    command = [sys.executable, "-c", _PEER, str(100 if small else _CHILDREN)]
    base, series = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(base), float(series)


_PEER = """
import re, sys
from pathlib import Path
from prometheus_client import CollectorRegistry, Gauge

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

count, before = int(sys.argv[1]), peak()
names = ["cluster", "node", "serial", "uuid", "model", "chassis"]
gauge = Gauge("gpuid_gpu_info", "x", names, registry=CollectorRegistry())
for i in range(count):
    uuid = f"GPU-{i:08}-bbbb-cccc-dddd-eeeeeeeeeeee"
    gauge.labels("sim-0", f"gpu-{i // 8:04}", f"{1650000000000 + i}", uuid, "NVIDIA H100 80GB HBM3", "").set(1)
print(before, (peak() - before) / count)
"""
