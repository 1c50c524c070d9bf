"""From the start of the process to the first answer on /metrics."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.clocks import best
from tests.benchmarks.processes import collector, running, simulated, wait
from tests.benchmarks.read import go_program
from tests.benchmarks.table import Row, duration, times
from tests.support.processes import free_ports

__all__ = ["rows"]

_LIBRARIES = "import aiohttp, kubernetes_asyncio.client, prometheus_client"


def rows(*, small: bool = False) -> Iterator[Row]:
    """Compare with importing the Kubernetes client, and with the Go program where there is one."""
    runs = 1 if small else 5
    with tempfile.TemporaryDirectory() as name, simulated(Path(name), 1, 2, 8, "20ms") as fleet:
        folder = Path(name)

        def ours() -> float:
            started = time.perf_counter()
            with collector(folder, fleet.kubeconfig, 1) as (process, client):
                wait(process, lambda: client.get("/metrics").status_code == 200, seconds=60, every=0.005)
                return time.perf_counter() - started

        seconds = min(ours() for _ in range(runs))
        command = [sys.executable, "-c", _LIBRARIES]
        imports = best(lambda: subprocess.run(command, check=True), runs=runs)
        yield Row(
            "start to the first scrape / importing aiohttp, kubernetes_asyncio and prometheus_client",
            duration(seconds),
            duration(imports),
            f"{seconds / imports:.2g} × as long",
        )
        if program := go_program():
            theirs = min(_go(program, {"KUBECONFIG": str(fleet.kubeconfig)}) for _ in range(runs))
            yield Row(
                "start to the first scrape / Go gpuid", duration(seconds), duration(theirs), times(theirs / seconds)
            )


def _go(program: str, settings: Mapping[str, str]) -> float:
    (port,) = free_ports(1)
    environment: dict[str, Any] = {**os.environ, **settings, "CLUSTER_NAME": "sim-0", "SERVER_PORT": str(port)}
    started = time.perf_counter()
    with running([program], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}/metrics"
        wait(process, lambda: httpx.get(url).status_code == 200, seconds=60, every=0.005)
        return time.perf_counter() - started
