"""`gpuid simulate`."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import yaml
from click.testing import CliRunner

from collector.cli import gpuid as command
from collector.kube.kubeconfig import contexts
from collector.simulator import SHAPES
from tests.support.processes import free_ports

Run = Callable[..., subprocess.CompletedProcess[str]]


class Simulation:
    """A running `gpuid simulate`, and all that it has printed until it was ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.banner = ""
        for line in process.stdout:
            self.banner += line
            if "/swap_tray" in line:
                break

    @property
    def kubeconfig(self) -> Path:
        return Path(self._found(r"export KUBECONFIG=(.*)"))

    @property
    def control(self) -> str:
        return self._found(r"Control +(http.*)")

    def _found(self, pattern: str) -> str:
        found = re.search(pattern, self.banner)
        assert found, self.banner
        return found[1]


@pytest.fixture
def start() -> Iterator[Callable[..., Simulation]]:
    """Start a simulation of little; it ends with the test."""
    processes: list[subprocess.Popen[str]] = []

    def run(*args: str | Path) -> Simulation:
        small = ("--clusters", "2", "--nodes", "2", "--gpus", "2", "--latency", "1ms")
        process = subprocess.Popen(
            [sys.executable, "-m", "collector", "simulate", *small, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return Simulation(process)

    yield run
    for process in processes:
        process.kill()
        process.communicate()


class TestRunning:
    def test_it_prints_the_kubeconfig_and_the_control_url(self, start: Callable[..., Simulation]):
        simulation = start()
        assert simulation.banner.startswith("Simulating 2 clusters, contexts sim-0 … sim-1, until Ctrl-C.\n\n")
        assert list(contexts(str(simulation.kubeconfig))) == ["sim-0", "sim-1"]
        curl = re.search(r"curl -X POST (\S+)", simulation.banner)
        assert curl
        assert httpx.post(curl[1]).raise_for_status().json()["cluster"] == "sim-0"

    def test_size_and_seed_determine_the_fleet(self, start: Callable[..., Simulation]):
        fleets = [
            httpx.get(f"{start('--gpus', '4', '--nodes', '3', '--seed', seed).control}/expected").json()
            for seed in ("7", "7", "8")
        ]
        assert [len(fleet) for fleet in fleets] == [24, 24, 24]
        assert fleets[0] == fleets[1] != fleets[2]

    def test_clusters_have_the_given_shapes_in_turn(self, start: Callable[..., Simulation]):
        simulation = start("--clusters", "3", "--shape", "gke", "--shape", "helm")
        assert "\nPresets     sim-0 gke\n            sim-1 helm\n            sim-2 gke\n\n" in simulation.banner
        clusters = httpx.get(f"{simulation.control}/clusters").json().values()
        assert [cluster["shape"] for cluster in clusters] == ["gke", "helm", "gke"]

    def test_by_default_there_is_one_cluster_of_each_shape(self, gpuid: Run):
        result = gpuid("simulate", "--shape", "all", "--nodes", "1", "--gpus", "1", "--for", "100ms")
        assert result.stdout.startswith(f"Simulating {len(SHAPES)} clusters, ")

    def test_a_watch_ends_when_connections_are_dropped(self, start: Callable[..., Simulation]):
        simulation = start()
        config = yaml.safe_load(simulation.kubeconfig.read_text())
        server, token = config["clusters"][0]["cluster"]["server"], config["users"][0]["user"]["token"]
        with (
            httpx.Client(verify=False, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client,
            client.stream("GET", f"{server}/api/v1/nodes?watch=1") as watch,
        ):
            lines = watch.iter_lines()
            assert "ADDED" in next(lines)
            httpx.post(f"{simulation.control}/clusters/sim-0/drop_connections").raise_for_status()
            with pytest.raises((httpx.NetworkError, httpx.ProtocolError)):  # and no timeout
                for _ in lines:
                    pass

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_it_cleanly(self, start: Callable[..., Simulation], number: signal.Signals):
        simulation = start()
        simulation.process.send_signal(number)
        assert simulation.process.communicate(timeout=30) == ("", "")
        assert simulation.process.returncode == 0
        assert not simulation.kubeconfig.exists()

    def test_it_stops_after_the_given_time(self, gpuid: Run):
        result = gpuid("simulate", "--clusters", "1", "--nodes", "1", "--for", "100ms")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("Simulating cluster sim-0 for 0.1 s or until Ctrl-C.\n")

    def test_it_takes_the_given_port_and_the_next_ones(self, start: Callable[..., Simulation]):
        port, *_ = free_ports(3)
        simulation = start("--listen", f"127.0.0.1:{port}")
        assert simulation.control == f"http://127.0.0.1:{port + 2}"
        assert f"https://127.0.0.1:{port + 1}" in simulation.kubeconfig.read_text()


class TestKubeconfig:
    def test_it_is_private_to_its_owner_and_kept(self, start: Callable[..., Simulation], tmp_path: Path):
        out = tmp_path / "a folder" / "out"
        out.parent.mkdir()
        simulation = start("--kubeconfig", out)
        assert f"export KUBECONFIG='{out}'\n" in simulation.banner
        assert list(contexts(str(out))) == ["sim-0", "sim-1"]
        assert out.stat().st_mode & 0o777 == 0o600
        simulation.process.terminate()
        simulation.process.communicate(timeout=30)
        assert list(out.parent.iterdir()) == [out]

    def test_it_follows_a_token_that_changes(self, start: Callable[..., Simulation], tmp_path: Path):
        out = tmp_path / "out"
        simulation = start("--kubeconfig", out)
        before, deadline = out.read_text(), time.monotonic() + 10
        while out.read_text() == before and time.monotonic() < deadline:
            httpx.post(f"{simulation.control}/clusters/sim-0/rotate_token").raise_for_status()
            time.sleep(0.2)
        assert out.read_text() != before

    def test_another_file_is_replaced_only_with_force(self, gpuid: Run, tmp_path: Path):
        out = tmp_path / "out"
        args = ("simulate", "--clusters", "1", "--nodes", "1", "--for", "50ms", "--kubeconfig", out)
        assert gpuid(*args).returncode == 0
        assert gpuid(*args).returncode == 0
        out.write_text("apiVersion: v1\nkind: Config\n")
        result = gpuid(*args)
        assert (result.returncode, result.stdout) == (2, "")
        assert (
            result.stderr == f"gpuid: {out}: exists and was not written by gpuid simulate; use --force to replace it\n"
        )
        assert out.read_text() == "apiVersion: v1\nkind: Config\n"
        assert gpuid(*args, "--force").returncode == 0
        assert "sim-0" in out.read_text()

    def test_a_file_that_cannot_be_written_is_exit_2(self, gpuid: Run, tmp_path: Path):
        for out in (tmp_path, tmp_path / "absent" / "out"):
            result = gpuid("simulate", "--clusters", "1", "--nodes", "1", "--for", "50ms", "--kubeconfig", out)
            assert (result.returncode, result.stdout) == (2, "")
            assert result.stderr.startswith(f"gpuid: {out}: ")
            assert result.stderr.count("\n") == 1


class TestBadInput:
    def test_a_taken_port_is_one_line_and_exit_2(self, gpuid: Run):
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            result = gpuid("simulate", "--clusters", "1", "--nodes", "1", "--listen", f"127.0.0.1:{port}")
        assert result.returncode == 2
        assert result.stderr.startswith(f"gpuid: 127.0.0.1:{port}: ")
        assert result.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        "args",
        [
            ["--clusters", "0"],
            ["--nodes", "-1"],
            ["--latency", "fast"],
            ["--listen", "127.0.0.1"],
            ["--listen", "127.0.0.1:65534"],
            ["--for", "1"],
        ],
    )
    def test_an_invalid_value_is_one_line_and_exit_2(self, args: list[str]):
        result = CliRunner().invoke(command, ["simulate", *args])
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"gpuid: simulate: Invalid value for {args[0] if args[1][-1] == '4' else ''}")
        assert result.stderr.count("\n") == 1
