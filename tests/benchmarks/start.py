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

from collector.simulator import smi
from collector.simulator.fleet import Fleet
from tests.benchmarks.processes import collector, compile_modules, processor_time, running, simulated, usage, wait
from tests.benchmarks.read import go_program
from tests.benchmarks.table import Row, duration, times
from tests.support.processes import free_ports

__all__ = ["rows"]

_LIBRARIES = "import aiohttp, kubernetes_asyncio.client, prometheus_client"  # with garbage collection, as by default
# What every collector uses: besides these, TLS, the parser, the configuration, the page and the store's language. All
# are imported by `gpuid run`, even if neither a page nor a store is used. Without garbage collection, as there.
_ALL_LIBRARIES = (
    "import gc; gc.disable(); "
    f"{_LIBRARIES}, cryptography.x509, lxml.etree, yaml, jinja2, sqlalchemy.ext.asyncio, uvloop, msgspec, click"
)
# Commands that ask nobody, with what each must import.
_COMMANDS = (
    ("--version", "click"),
    ("--help", "click"),
    ("parse", "click, msgspec, lxml.etree"),
    ("config", "click, msgspec, tomli_w, yarl"),
    ("print rules", "click, msgspec, yaml, yarl"),
)


def rows(*, small: bool = False) -> Iterator[Row]:
    """Compare with importing the Kubernetes client, and with the Go program where there is one."""
    runs = 1 if small else 5
    compile_modules()
    with tempfile.TemporaryDirectory() as name, simulated(Path(name), 1, 2, 8, "20ms") as fleet:
        folder = Path(name)
        yield from _commands(folder, runs)

        def ours(settings: Mapping[str, Any]) -> tuple[float, float]:
            started = time.perf_counter()
            with collector(folder, fleet.kubeconfig, 1, **settings) as (process, client):
                wait(process, lambda: client.get("/metrics").status_code == 200, seconds=60, every=0.005)
                return usage(process.pid)[0], time.perf_counter() - started

        stored = {"store": {"url": f"sqlite://{folder}/gpuid.db"}}
        ours(stored)  # creates the store
        found, restarts, some, most = [], [], [], []
        for _ in range(runs):  # alternately, since the machine may be busy
            found.append(ours({}))
            restarts.append(ours(stored)[0])
            some.append(processor_time([sys.executable, "-c", _LIBRARIES]))
            most.append(processor_time([sys.executable, "-c", _ALL_LIBRARIES]))
        cpu, seconds = min(cpu for cpu, _ in found), min(seconds for _, seconds in found)
        for what, mine, imports, libraries, aim in (
            ("start", cpu, min(some), "aiohttp, kubernetes_asyncio and prometheus_client", ""),
            ("start", cpu, min(most), "what a collector uses", "within 1.5 ×"),
            ("start with a store (SQLite)", min(restarts), min(most), "what a collector uses", "within 1.5 ×"),
        ):
            yield Row(
                f"{what} to the first scrape / importing {libraries}",
                f"{duration(mine)} of CPU",
                f"{duration(imports)} of CPU",
                f"{mine / imports:.2g} × as long",
                aim,
            )
        if program := go_program():
            theirs = min(_go(program, {"KUBECONFIG": str(fleet.kubeconfig)}) for _ in range(runs))
            yield Row(
                "start to the first scrape / Go gpuid", duration(seconds), duration(theirs), times(theirs / seconds)
            )


def _commands(folder: Path, runs: int) -> Iterator[Row]:
    """Compare commands that ask nobody with importing what they must, in processor time."""
    output = folder / "output.xml"
    fleet = Fleet(clusters=1, nodes=1, gpus=8)
    output.write_bytes(smi.render(fleet.kind("sim-0"), fleet.cards("sim-0", fleet.nodes("sim-0")[0]), time.time()))
    config = folder / "away.toml"
    config.write_text('[[clusters]]\ncontext = "away"\n')
    further: dict[str, list[str | Path]] = {"parse": [output], "config": ["-c", config], "print rules": ["-c", config]}
    for name, imports in _COMMANDS:
        command = [sys.executable, "-m", "collector", *name.split(), *map(str, further.get(name, ()))]
        ours = min(processor_time(command) for _ in range(runs))
        theirs = min(processor_time([sys.executable, "-c", f"import {imports}"]) for _ in range(runs))
        yield Row(
            f"gpuid {name} / importing {imports}",
            f"{duration(ours)} of CPU",
            f"{duration(theirs)} of CPU",
            f"{ours / theirs:.2g} × as long",
            "within 1.5 ×",
        )


def _go(program: str, settings: Mapping[str, str]) -> float:
    (port,) = free_ports(1)
    environment: dict[str, Any] = {**os.environ, **settings, "CLUSTER_NAME": "sim-0", "SERVER_PORT": str(port)}
    started = time.perf_counter()
    with running([program], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}/metrics"
        wait(process, lambda: httpx.get(url).status_code == 200, seconds=60, every=0.005)
        return time.perf_counter() - started
