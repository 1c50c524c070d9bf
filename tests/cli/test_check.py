"""`gpuid check`, against simulated API servers."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from collector.simulator import ExecFaultKind, SimulatedCluster, Simulator
from tests.support.terminal import Terminal

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

    def distrust(self, path: Path) -> None:
        """Configure a kubeconfig at `path` that trusts whom the system trusts, and not the simulator's authority."""
        document = json.loads(self._simulator.kubeconfig.read_text())
        for entry in document["clusters"]:
            del entry["cluster"]["certificate-authority-data"]
        path.write_text(json.dumps(document))
        self._config.write_text(self._config.read_text().replace(str(self._simulator.kubeconfig), str(path)))

    def authenticate_by(self, command: str, *args: str, path: Path) -> None:
        """Configure a kubeconfig at `path` whose users have an exec plugin."""
        plugin = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
        document = json.loads(self._simulator.kubeconfig.read_text())
        for entry in document["users"]:
            entry["user"] = {"exec": plugin | {"command": command, "args": args}}
        path.write_text(json.dumps(document))
        self._config.write_text(self._config.read_text().replace(str(self._simulator.kubeconfig), str(path)))

    def check(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self._run("check", "-c", self._config, *args)

    def finding(self, name: str, *args: str) -> dict[str, Any]:
        """What is found out about one cluster, as JSON; the exit code must fit it."""
        result = self.check("--json", "--cluster", name, *args)
        (finding,) = json.loads(result.stdout)["clusters"]
        assert result.returncode == (0 if finding["ok"] else 1)
        return finding

    def problems(self, name: str, *args: str) -> list[tuple[str, str]]:
        return [(problem["text"], problem["hint"]) for problem in self.finding(name, *args)["problems"]]


@pytest.fixture
def clusters(tmp_path: Path, gpuid: Run) -> Iterator[Clusters]:
    simulator = Simulator(clusters=2, nodes=3, gpus=4, latency=0.001)
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(simulator):
        yield Clusters(simulator, portal, tmp_path / "gpuid.toml", gpuid)


class TestGood:
    def test_everything_right_is_one_line_a_cluster_and_exit_0(self, clusters: Clusters):
        result = clusters.check()
        assert (result.returncode, result.stderr) == (0, "")
        heading, first, second, verdict = result.stdout.splitlines()
        assert heading.split() == ["CLUSTER", "VERSION", "LATENCY", "USER", "PODS", "GPUS", "RESULT"]
        assert [first.split()[0], second.split()[0]] == ["sim-0", "sim-1"]
        for line in (first, second):
            assert "3/3 ready" in line
            assert "4 on gpu-000" in line
            assert line.endswith("  ok")
        assert verdict == "2 of 2 clusters are ready."

    def test_json_has_all_that_was_found(self, clusters: Clusters):
        finding = clusters.finding("sim-0")
        assert finding.pop("latency_seconds") < 5
        assert finding.pop("read") == clusters["sim-0"].pod(finding.pop("node"))
        assert finding.pop("version").startswith("v1.")
        assert finding.pop("driver_version")
        assert finding == {
            "cluster": "sim-0",
            "context": "sim-0",
            "ok": True,
            "server": clusters["sim-0"].url,
            "user": "simulated-user",
            "rights": {
                "list nodes": True,
                "watch nodes": True,
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

    def test_it_costs_one_exec_a_cluster(self, clusters: Clusters):
        clusters.check()
        assert [clusters[name].counters.execs.total() for name in ("sim-0", "sim-1")] == [1, 1]

    @pytest.mark.parametrize("node", ["gpu-0000", "gpu-0002"])
    def test_the_pod_that_is_read_is_the_one_that_a_run_prefers_the_newest(self, clusters: Clusters, node: str):
        clusters.act("sim-0", "replace_pod", node)
        finding, deadline = clusters.finding("sim-0"), time.monotonic() + 20
        while finding["pods"][0]["ready"] < 3 and time.monotonic() < deadline:
            finding = clusters.finding("sim-0")
        assert (finding["node"], finding["read"]) == (node, clusters["sim-0"].pod(node))


class TestProblems:
    def test_one_clusters_failure_leaves_the_others_alone_and_is_exit_1(self, clusters: Clusters):
        clusters.act("sim-0", "stop")
        result = clusters.check()
        assert result.returncode == 1
        _, first, second, verdict = result.stdout.splitlines()
        assert f"{clusters['sim-0'].url}: connection refused (is the address right" in first
        assert second.endswith("  ok")
        assert verdict == "1 of 2 clusters are ready."

    def test_a_context_that_does_not_exist(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-9"')
        ((text, _hint),) = clusters.problems("x")
        assert text.startswith('no context "sim-9" in ')
        assert "sim-0" in text

    def test_credentials_that_are_refused(self, clusters: Clusters):
        clusters.act("sim-0", "refuse_tokens")
        ((text, hint),) = clusters.problems("sim-0")
        assert text.startswith(f"{clusters['sim-0'].url}: unauthorized")
        assert hint == "log in again; `kubectl --context sim-0 get nodes` fails likewise until then"

    def test_each_missing_right_with_the_rule_that_grants_it(self, clusters: Clusters):
        clusters.act("sim-0", "deny", "create", "pods/exec")
        clusters.act("sim-0", "deny", "list", "nodes")
        clusters.act("sim-0", "deny", "watch", "nodes")
        assert clusters.problems("sim-0") == [
            (
                "may not list or watch nodes",
                'grant {apiGroups: [""], resources: ["nodes"], verbs: ["list","watch"]} by a ClusterRole',
            ),
            (
                "may not create pods/exec in namespace gpu-operator",
                'grant {apiGroups: [""], resources: ["pods/exec"], verbs: ["create"]}'
                " by a Role in namespace gpu-operator",
            ),
        ]
        assert clusters["sim-0"].counters.execs.total() == 0

    def test_no_right_to_list_pods_is_not_taken_for_no_pods(self, clusters: Clusters):
        clusters.act("sim-0", "deny", "list", "pods")
        finding = clusters.finding("sim-0")
        assert [problem["text"] for problem in finding["problems"]] == ["may not list pods in namespace gpu-operator"]
        assert finding["pods"] == []

    def test_a_server_that_does_not_tell_rights_or_names_is_judged_by_what_it_does(self, clusters: Clusters):
        clusters.act("sim-0", "deny", "create", "selfsubjectaccessreviews")
        clusters.act("sim-0", "deny", "create", "selfsubjectreviews")
        finding = clusters.finding("sim-0")
        assert (finding["ok"], finding["user"], finding["rights"], finding["gpus"]) == (True, None, {}, 4)

    def test_two_names_for_one_cluster_are_a_problem_of_the_second(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-0"')
        result = clusters.check("--json")
        found = {finding["cluster"]: finding["problems"] for finding in json.loads(result.stdout)["clusters"]}
        (problem,) = found.pop("x")
        assert (result.returncode, found) == (1, {"sim-0": [], "sim-1": []})
        assert problem["text"].startswith('it is the same cluster as "sim-0" (node gpu-000')
        assert problem["text"].endswith("; remove one of the two from the configuration")

    @pytest.mark.parametrize(
        ("more", "problem"),
        [
            (
                'node_selector = "kubernetes.io/hostname=gpu-0001"',
                'it is the same cluster as "sim-0" (node gpu-0001 ',
            ),
            ('preset = "gke"', "no pods found in namespace kube-system "),  # where a run takes up no node
        ],
    )
    def test_parts_of_one_cluster_are_a_problem_when_they_have_a_gpu_node_in_common_as_they_are_to_a_run(
        self, clusters: Clusters, more: str, problem: str
    ):
        clusters.configure(f'[[clusters]]\nname = "x"\ncontext = "sim-0"\n{more}')
        result = clusters.check("--json")
        (found,) = (one for one in json.loads(result.stdout)["clusters"] if one["cluster"] == "x")
        assert [one["text"].startswith(problem) for one in found["problems"]] == [True]

    def test_no_right_to_list_nodes_leaves_it_open(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-0"')
        clusters.act("sim-0", "deny", "list", "nodes")
        found = json.loads(clusters.check("--json").stdout)["clusters"]
        missing = ["may not list nodes"]
        assert [[problem["text"] for problem in one["problems"]] for one in found] == [missing, [], missing]

    def test_two_parts_of_one_cluster_are_none(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-0"\nnode_selector = "pool=x"')
        assert clusters.check().returncode == 0

    def test_outside_of_a_pod_no_kubeconfig_is_blamed(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\nin_cluster = true')
        assert clusters.problems("x") == [
            ("in_cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; is this a pod?", "")
        ]

    def test_a_certificate_that_another_authority_signed(self, clusters: Clusters, tmp_path: Path):
        clusters.distrust(tmp_path / "kubeconfig")
        ((text, hint),) = clusters.problems("sim-0")
        assert text.startswith(f"{clusters['sim-0'].url}: certificate verify failed: ")
        assert hint == "does the kubeconfig's certificate-authority belong to this server, and fits tls-server-name?"

    def test_no_pods_but_another_presets(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-0"\npreset = "gke"')
        assert clusters.problems("x") == [
            (
                'no pods found in namespace kube-system by "k8s-app=nvidia-gpu-device-plugin"',
                'preset = "gpu-operator" would find 3',
            )
        ]

    def test_no_pod_is_ready(self, clusters: Clusters):
        for node in clusters["sim-0"].nodes:
            clusters.act("sim-0", "set_ready", node, False)
        finding = clusters.finding("sim-0")
        assert (finding["pods"][0]["ready"], finding["pods"][0]["total"]) == (0, 3)
        assert [problem["text"] for problem in finding["problems"]] == ["none of the pods is ready"]

    @pytest.mark.parametrize(
        ("how", "hint"),
        [
            (ExecFaultKind.EXIT_STATUS, "the driver of that node may be broken; kubectl exec shows all of it"),
            (ExecFaultKind.NO_BINARY, "set `command`, or choose pods whose container has nvidia-smi"),
            (ExecFaultKind.GARBAGE, "`command` must print what `nvidia-smi -q -x` prints"),
        ],
    )
    def test_a_trial_reading_that_fails_names_the_pod_and_a_remedy(
        self, clusters: Clusters, how: ExecFaultKind, hint: str
    ):
        clusters.act("sim-0", "fail_exec", how)
        finding = clusters.finding("sim-0")
        (problem,) = finding["problems"]
        assert problem["text"].startswith(f"{clusters['sim-0'].pod(finding['node'])}: ")
        assert (problem["hint"], finding["gpus"]) == (hint, None)

    def test_a_container_that_the_pod_does_not_have(self, clusters: Clusters):
        source = '{namespace = "gpu-operator", selector = "app=nvidia-device-plugin-daemonset", container = "x"}'
        clusters.configure(f'[[clusters]]\nname = "x"\ncontext = "sim-0"\nsources = [{source}]')
        ((text, hint),) = clusters.problems("x")
        assert "gpu-operator/" in text
        assert hint == "set `container` of the source to a container of this pod"


class TestDestinations:
    def test_store_and_sinks_are_rows_of_their_own_and_one_failure_is_exit_1(self, clusters: Clusters, tmp_path: Path):
        hook = '[sinks.hook]\ntype = "webhook"\nurl = "http://127.0.0.1:1/secret-path"'
        clusters.configure(f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"', '[sinks.log]\ntype = "stdout"', hook)
        result = clusters.check()
        assert (result.returncode, result.stderr) == (1, "")
        *_, verdict, empty, heading, store, log, broken = result.stdout.splitlines()
        assert (verdict, empty, heading.split()) == (
            "2 of 2 clusters are ready.",
            "",
            ["DESTINATION", "TYPE", "RESULT"],
        )
        assert " ".join(store.split()) == "store sqlite ok (a collector makes it at its first start)"
        assert " ".join(log.split()) == "log stdout ok (writes to a pipe)"
        assert broken.split()[:3] == ["hook", "webhook", "sinks.hook:"]
        assert "http://127.0.0.1:1: All connection attempts failed" in broken
        assert "secret-path" not in result.stdout
        assert not (tmp_path / "gpuid.db").exists()

    def test_json_has_them_under_keys_of_their_own(self, clusters: Clusters, tmp_path: Path):
        clusters.configure(f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"', '[sinks.log]\ntype = "stdout"')
        result = clusters.check("--json")
        found = json.loads(result.stdout)
        assert result.returncode == 0
        assert found["store"] == {
            "name": "store",
            "type": "sqlite",
            "ok": True,
            "text": "a collector makes it at its first start",
        }
        assert found["sinks"] == [{"name": "log", "type": "stdout", "ok": True, "text": "writes to a pipe"}]
        found = json.loads(clusters.check("--json", "--cluster", "sim-0").stdout)
        assert (len(found["clusters"]), found["store"], found["sinks"]) == (1, None, [])

    def test_a_sink_that_never_answers_runs_into_the_timeout(self, clusters: Clusters, tmp_path: Path):
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"http://127.0.0.1:{mute.getsockname()[1]}/"
            store = f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"'
            clusters.configure(store, f'[sinks.hook]\ntype = "webhook"\nurl = "{url}"')
            result = clusters.check("--json", "--timeout", "2s")
        assert result.returncode == 1
        assert json.loads(result.stdout)["sinks"][0]["text"] == "no answer within 2 s"


class TestOnATerminal:
    def test_a_narrow_one_has_every_problem_and_remedy_whole_below_the_table(self, clusters: Clusters, tmp_path: Path):
        clusters.act("sim-0", "deny", "create", "pods/exec")
        config = tmp_path / "gpuid.toml"
        with Terminal("check", "-c", config, columns=80, env={"NO_COLOR": "1"}) as terminal:
            assert terminal.end() == 1
        text = terminal.text.replace("\r\n", "\n")
        assert (
            "\nsim-0: may not create pods/exec in namespace gpu-operator\n"
            '  grant {apiGroups: [""], resources: ["pods/exec"], verbs: ["create"]}'
            " by a Role in namespace gpu-operator\n"
        ) in text
        assert [line.split()[-1] for line in text.splitlines() if line.startswith("sim-") and ":" not in line] == [
            "failed",
            "ok",
        ]


class TestDeadline:
    @pytest.mark.parametrize(
        ("action", "args", "doing"),
        [
            ("freeze_connections", [True], "reaching its API server"),
            ("hang_exec", [], "running nvidia-smi in gpu-operator/"),
        ],
    )
    def test_nothing_hangs(self, clusters: Clusters, action: str, args: list[Any], doing: str):
        clusters.act("sim-0", action, *args)
        ((text, _hint),) = clusters.problems("sim-0", "--timeout", "3s")
        assert text.startswith(f"no answer within 3 s while {doing}")

    def test_an_exec_plugin_that_hangs_is_named(self, clusters: Clusters, tmp_path: Path):
        clusters.authenticate_by("sleep", "60", path=tmp_path / "kubeconfig")
        assert clusters.problems("sim-0", "--timeout", "3s") == [
            (
                'no answer within 3 s while running the exec plugin "sleep"',
                "`kubectl --context sim-0 get nodes` runs the same plugin and shows what it prints",
            )
        ]

    def test_an_interrupt_ends_it_at_once_and_quietly(self, clusters: Clusters, tmp_path: Path):
        clusters.act("sim-0", "hang_exec")
        process = subprocess.Popen(
            [sys.executable, "-m", "collector", "check", "-c", tmp_path / "gpuid.toml"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 20
        while not clusters["sim-0"].counters.open_execs and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        assert (process.returncode, output, errors.strip()) == (130, "", "")


class TestBadInput:
    def test_a_cluster_that_is_not_configured_names_the_nearest(self, clusters: Clusters):
        result = clusters.check("--cluster", "sim-00")
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == 'gpuid: --cluster: the configuration has no cluster "sim-00"; did you mean "sim-0"?\n'

    def test_a_wrong_configuration_is_one_line_and_exit_2(self, clusters: Clusters):
        clusters.configure("refrehs = 1")
        result = clusters.check()
        assert result.returncode == 2
        assert result.stderr.endswith('unknown key; did you mean "refresh"?\n')
