"""`gpuid run --once` as a process: its summary, its exit code, and what it refuses."""

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from collector.simulator import Simulator
from tests.support.processes import CollectorProcess
from tests.support.waiting import until

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    simulator = Simulator(clusters=1, nodes=2, gpus=2, latency=0.01, directory=tmp_path / "simulator")
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(simulator):
        yield simulator


@pytest.fixture
def config(tmp_path: Path, simulator: Simulator) -> Path:
    config = tmp_path / "gpuid.toml"
    config.write_text(
        f'[[clusters]]\ncontext = "sim-0"\nkubeconfig = "{simulator.kubeconfig}"\n'
        f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"\n'
    )
    return config


def test_it_prints_a_summary_and_sets_the_exit_code(gpuid: Run, config: Path, tmp_path: Path):
    result = gpuid("run", "--once", "-c", config, "--log-level", "error")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == (
        "CLUSTER  NODES  READ  GPUS  RESULT\n"
        "sim-0    2      2     4     ok\n"
        "\n"
        "1 of 1 cluster read completely: 2 nodes, 4 GPUs.\n"
        f"Recorded 4 changes (4 appeared) in {tmp_path}/gpuid.db.\n"
    )
    dead = tmp_path / "kubeconfig"
    dead.write_text(
        '{"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],'
        ' "contexts": [{"name": "dead", "context": {"cluster": "c"}}]}'
    )
    sink = '[sinks.log]\ntype = "stdout"\nbackfill = true\n'
    config.write_text(f'{config.read_text()}{sink}[[clusters]]\ncontext = "dead"\nkubeconfig = "{dead}"\n')
    result = gpuid("run", "--once", "-c", config, "--log-level", "error", "--timeout", "6s")
    assert result.returncode == 1
    assert result.stdout.count("\n") == result.stdout.count('"event":"appeared"') == 4  # nothing but records
    assert "\ndead     0      0     0     unreachable\n" in result.stderr
    assert "\n1 of 2 clusters read completely: 2 nodes, 4 GPUs.\n" in result.stderr
    assert result.stderr.endswith("\nSink log: delivered 4 records.\n")


def test_an_interrupted_round_is_a_failure_and_its_store_is_in_use(
    gpuid: Run, config: Path, simulator: Simulator, tmp_path: Path
):
    cluster = simulator.clusters["sim-0"]
    cluster.hang_exec()
    process = CollectorProcess(tmp_path)
    process.command += ["--once"]
    process.start()
    until(lambda: cluster.counters.execs.total() == 2)
    result = gpuid("run", "--once", "-c", config)
    assert (result.returncode, result.stdout) == (2, "")
    assert "in use by another gpuid" in result.stderr
    assert process.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert process.logged("stopping on SIGTERM")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--timeout 5m", "--timeout needs --once"),
        (
            "--once --shard 0 --total-shards 2",
            "--once reads all clusters: use it without --total-shards and $GPUID_TOTAL_SHARDS",
        ),
    ],
)
def test_contradicting_options_are_refused(gpuid: Run, arguments: str, why: str):
    result = gpuid("run", "-c", "/dev/null", *arguments.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"gpuid: run: {why}; see `gpuid run --help`\n"
