"""`gpuid check`, against simulated API servers."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from collector.cli.table import cell_width
from collector.simulator import SimulatedCluster, Simulator
from tests.support.terminal import Terminal
from tests.support.waiting import until

Run = Callable[..., subprocess.CompletedProcess[str]]


class Clusters:
    """Two simulated clusters, and a configuration for them."""

    def __init__(self, simulator: Simulator, portal: BlockingPortal, config: Path, run: Run) -> None:
        self._simulator, self._portal, self._config, self._run = simulator, portal, config, run
        self.configure()

    def __getitem__(self, name: str) -> SimulatedCluster:
        return self._simulator.clusters[name]

    def act(self, name: str, action: str, *args: Any) -> None:
        self._portal.call(getattr(self[name], action), *args)

    def configure(self, *more: str) -> None:
        lines = [f'[defaults]\nkubeconfig = "{self._simulator.kubeconfig}"']
        lines += [f'[[clusters]]\ncontext = "{name}"' for name in self._simulator.clusters]
        self._config.write_text("\n".join([*lines, *more]))

    def check(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self._run("check", "-c", self._config, *args)

    def finding(self, name: str, *args: str) -> dict[str, Any]:
        """What is found out about one cluster, as JSON; the exit code must fit it."""
        result = self.check("-o", "json", "--cluster", name, *args)
        (finding,) = json.loads(result.stdout)["clusters"]
        assert result.returncode == (0 if finding["ok"] else 1)
        return finding


@pytest.fixture
def clusters(tmp_path: Path, gpuid: Run) -> Iterator[Clusters]:
    simulator = Simulator(clusters=2, nodes=3, gpus=4, latency=0.001)
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(simulator):
        yield Clusters(simulator, portal, tmp_path / "gpuid.toml", gpuid)


class TestGood:
    def test_a_cluster_that_is_ready_is_one_line(self, clusters: Clusters):
        result = clusters.check()
        assert (result.returncode, result.stderr) == (0, "")
        heading, first, second, _, verdict = result.stdout.splitlines()
        assert heading.split() == ["CLUSTER", "VERSION", "LATENCY", "PODS", "GPUS", "RESULT"]
        assert [first.split()[0], second.split()[0]] == ["sim-0", "sim-1"]
        for line in (first, second):
            assert "3/3 ready" in line
            assert line.endswith("  ok")
        assert verdict == "2 of 2 clusters are ready."

    def test_json_has_every_detail_of_a_cluster(self, clusters: Clusters):
        finding = clusters.finding("sim-0")
        assert finding.pop("latency_seconds") < 5
        assert finding.pop("read") == clusters["sim-0"].pod(finding.pop("node"))
        assert finding.pop("version").startswith("v1.")
        assert finding.pop("driver_version")
        assert finding.pop("credential_expiry") is None
        assert finding.pop("fit") is None
        assert finding.pop("token") is None
        assert finding == {
            "cluster": "sim-0",
            "context": "sim-0",
            "ok": True,
            "server": clusters["sim-0"].url,
            "user": "simulated-user",
            "resource_slices": "the API server has no ResourceSlices",
            "rights": {
                "list nodes": True,
                "watch nodes": True,
                "list resourceslices.resource.k8s.io": True,
                "watch resourceslices.resource.k8s.io": True,
                "list pods in gpu-operator": True,
                "watch pods in gpu-operator": True,
                "create pods/exec in gpu-operator": True,
                "get pods/exec in gpu-operator": True,
            },
            "pods": [
                {
                    "namespace": "gpu-operator",
                    "selector": "app=nvidia-device-plugin-daemonset",
                    "container": "nvidia-device-plugin",
                    "ready": 3,
                    "total": 3,
                }
            ],
            "gpus": 4,
            "problems": [],
        }


class TestProblems:
    def test_a_cluster_with_a_problem_is_exit_1(self, clusters: Clusters):
        clusters.act("sim-0", "stop")
        result = clusters.check("-o", "wide")
        assert result.returncode == 1
        _, first, second, verdict = result.stdout.splitlines()
        assert f"{clusters['sim-0'].url}: connection refused (check the address" in first
        assert second.endswith("  ok")
        assert verdict == "1 of 2 clusters are ready."

    def test_json_has_each_problem_with_its_hint(self, clusters: Clusters):
        for node in clusters["sim-0"].nodes:
            clusters.act("sim-0", "set_ready", node, False)
        assert clusters.finding("sim-0")["problems"] == [
            {"text": "no pod is ready", "hint": "see `kubectl describe pod`"}
        ]


class TestDestinations:
    def test_store_and_sinks_have_a_table_of_their_own(self, clusters: Clusters, tmp_path: Path):
        hook = '[sinks.hook]\ntype = "webhook"\nurl = "http://127.0.0.1:1/secret-path"'
        clusters.configure(f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"', '[sinks.log]\ntype = "stdout"', hook)
        result = clusters.check("-o", "wide")
        assert (result.returncode, result.stderr) == (1, "")
        *_, verdict, empty, heading, store, log, broken = result.stdout.splitlines()
        assert (verdict, empty, heading.split()) == (
            "2 of 2 clusters are ready.",
            "",
            ["DESTINATION", "TYPE", "RESULT"],
        )
        assert " ".join(store.split()) == "store sqlite ok (created by the collector at its first start)"
        assert " ".join(log.split()) == "log stdout ok (writes to a pipe)"
        assert broken.split()[:3] == ["hook", "webhook", "sinks.hook:"]
        assert "http://127.0.0.1:1: " in broken
        assert "secret-path" not in result.stdout
        assert not (tmp_path / "gpuid.db").exists()

    def test_json_has_them_under_their_own_keys(self, clusters: Clusters, tmp_path: Path):
        clusters.configure(f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"', '[sinks.log]\ntype = "stdout"')
        result = clusters.check("-o", "json")
        found = json.loads(result.stdout)
        assert result.returncode == 0
        assert found["store"] == {
            "name": "store",
            "type": "sqlite",
            "ok": True,
            "text": "created by the collector at its first start",
        }
        assert found["sinks"] == [{"name": "log", "type": "stdout", "ok": True, "text": "writes to a pipe"}]
        found = json.loads(clusters.check("-o", "json", "--cluster", "sim-0").stdout)
        assert (len(found["clusters"]), found["store"], found["sinks"]) == (1, None, [])

    def test_a_sink_that_never_answers_times_out(self, clusters: Clusters, tmp_path: Path):
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"http://127.0.0.1:{mute.getsockname()[1]}/"
            store = f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"'
            clusters.configure(store, f'[sinks.hook]\ntype = "webhook"\nurl = "{url}"')
            result = clusters.check("-o", "json", "--timeout", "2s")
        assert result.returncode == 1
        assert json.loads(result.stdout)["sinks"][0]["text"] == "no answer within 2 s"


class TestTables:
    def test_long_names_fit_and_problems_are_shown_in_full(self, clusters: Clusters, tmp_path: Path):
        name = "arn:aws:eks:us-east-1:123456789012:cluster/gpu-prod-training-クラスタ"
        config = tmp_path / "gpuid.toml"
        config.write_text(config.read_text().replace('context = "sim-1"', f'context = "sim-1"\nname = "{name}"'))
        hook = '[sinks.hook]\ntype = "webhook"\nurl = "http://127.0.0.1:1/secret-path"'
        config.write_text(f'{config.read_text()}\n[store]\nurl = "sqlite://{tmp_path}/gpuid.db"\n{hook}\n')
        clusters.act("sim-1", "deny", "create", "pods/exec")
        lines = clusters.check().stdout.splitlines()
        assert [line for line in lines if cell_width(line) > 80 and not line.startswith("  add ")] == []
        assert lines[2].split()[0].startswith("arn:aws:eks")
        assert name in " ".join(lines)
        assert lines[-1].startswith("hook: sinks.hook: http://127.0.0.1:1: ")


class TestOnATerminal:
    def test_problems_are_shown_in_full_below_the_table(self, clusters: Clusters, tmp_path: Path):
        clusters.act("sim-0", "deny", "create", "pods/exec")
        config = tmp_path / "gpuid.toml"
        with Terminal("check", "-c", config, columns=80, env={"NO_COLOR": "1"}) as terminal:
            assert terminal.end() == 1
        text = terminal.text.replace("\r\n", "\n")
        assert (
            "\nsim-0: may not create pods/exec in namespace gpu-operator\n"
            '  add {apiGroups: [""], resources: ["pods/exec"], verbs: ["create"]}'
            " to a Role in namespace gpu-operator\n"
        ) in text
        assert [line.split()[-1] for line in text.splitlines() if line.startswith("sim-") and ":" not in line] == [
            "failed",
            "ok",
        ]


class TestSignals:
    def test_an_interrupt_ends_it_quietly(self, clusters: Clusters, tmp_path: Path):
        clusters.act("sim-0", "hang_exec")
        process = subprocess.Popen(
            [sys.executable, "-m", "collector", "check", "-c", tmp_path / "gpuid.toml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: clusters["sim-0"].counters.open_execs)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors.strip()) == (130, "", "")


class TestBadInput:
    def test_an_unknown_cluster_suggests_the_nearest_name(self, clusters: Clusters):
        result = clusters.check("--cluster", "sim-00")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == 'gpuid: --cluster: no cluster "sim-00"; did you mean "sim-0"?\n'

    def test_an_invalid_configuration_is_one_line_and_exit_2(self, clusters: Clusters):
        clusters.configure("refrehs = 1")
        result = clusters.check()
        assert result.returncode == 2
        assert result.stderr.endswith('unknown key; did you mean "refresh"?\n')
