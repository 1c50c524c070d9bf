"""The check of clusters, against simulated API servers."""

import inspect
import json
import re
import tomllib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from collector import config
from collector.checks.cluster_check import ClusterCheck
from collector.checks.clusters import check_clusters
from collector.checks.finding import ClusterDetails, Finding, FitDetails
from collector.checks.policies import NOT_IN_FORCE
from collector.config import ClusterSettings
from collector.kube.errors import UnauthorizedError, UnreachableError
from collector.model import ReadError, ReadFailure
from collector.simulator import SHAPES, ExecFaultKind, LogFaultKind, SimulatedCluster, Simulator
from collector.simulator.fleet import Card
from tests.support.gpu_pods import add_pods

pytestmark = pytest.mark.anyio


class Clusters:
    """Two simulated clusters, and a configuration of them."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self._simulator = simulator
        self._folder = folder
        self._kubeconfig = simulator.kubeconfig
        self._more: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> SimulatedCluster:
        return self._simulator.clusters[name]

    def cards(self, name: str, node: str) -> Sequence[Card]:
        return self._simulator.fleet.cards(name, node)

    @property
    def path(self) -> Path:
        return self._kubeconfig

    def configure(self, *more: str) -> None:
        self._more = more

    def distrust(self) -> None:
        """Trust the system's CAs, and not the simulator's."""
        document = json.loads(self._simulator.kubeconfig.read_text())
        for entry in document["clusters"]:
            del entry["cluster"]["certificate-authority-data"]
        self._write_kubeconfig(document)

    def go_to(self, url: str) -> None:
        """Let all clusters be at another address."""
        document = json.loads(self._simulator.kubeconfig.read_text())
        for entry in document["clusters"]:
            entry["cluster"] = {"server": url}
        self._write_kubeconfig(document)

    def authenticate_by(self, command: str, *args: str) -> None:
        """Let all users have an exec plugin."""
        plugin = {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}
        document = json.loads(self._simulator.kubeconfig.read_text())
        for entry in document["users"]:
            entry["user"] = {"exec": plugin | {"command": command, "args": args}}
        self._write_kubeconfig(document)

    def log_in_at(self, issuer: str) -> None:
        """Let all users have an OpenID issuer."""
        login = {"idp-issuer-url": issuer, "client-id": "kubernetes", "refresh-token": "s3cr3t"}
        document = json.loads(self._simulator.kubeconfig.read_text())
        for entry in document["users"]:
            entry["user"] = {"auth-provider": {"name": "oidc", "config": login}}
        self._write_kubeconfig(document)

    def name_token_file(self) -> Path:
        """Move all users' tokens to files next to the kubeconfig; return that of sim-0."""
        document = json.loads(self._simulator.kubeconfig.read_text())
        for entry in document["users"]:
            file = self._folder / f"{entry['name']}.token"
            file.write_text(entry["user"].pop("token"))
            entry["user"]["tokenFile"] = file.name
        self._write_kubeconfig(document)
        return self._folder / "sim-0.token"

    def without_credentials(self) -> None:
        """Remove the credentials of all users."""
        document = json.loads(self._simulator.kubeconfig.read_text())
        for entry in document["users"]:
            entry["user"] = {}
        self._write_kubeconfig(document)

    def _write_kubeconfig(self, document: Any) -> None:
        self._kubeconfig = self._folder / "kubeconfig"
        self._kubeconfig.write_text(json.dumps(document))

    async def check(self, timeout: float = 30) -> dict[str, Finding]:
        lines = [f'[defaults]\nkubeconfig = "{self._kubeconfig}"']
        lines += [f'[[clusters]]\ncontext = "{name}"' for name in self._simulator.clusters]
        settings = config.parse("\n".join([*lines, *self._more]), self._folder / "gpuid.toml")
        findings = await check_clusters(settings.clusters, timeout)
        assert [finding.name for finding in findings] == [cluster.name for cluster in settings.clusters]
        return {finding.name: finding for finding in findings}

    async def problems(self, name: str, timeout: float = 30) -> list[tuple[str, str]]:
        findings = await self.check(timeout)
        return [(problem.text, problem.hint) for problem in findings[name].problems]

    async def details(self, name: str) -> ClusterDetails:
        details = (await self.check())[name].details
        assert details is not None
        return details


@pytest.fixture
async def clusters(tmp_path: Path) -> AsyncIterator[Clusters]:
    (tmp_path / "simulator").mkdir()
    async with Simulator(clusters=2, nodes=3, gpus=4, latency=0.001, directory=tmp_path / "simulator") as simulator:
        yield Clusters(simulator, tmp_path)


class TestReading:
    async def test_a_check_costs_one_exec_per_cluster(self, clusters: Clusters):
        assert [finding.ok for finding in (await clusters.check()).values()] == [True, True]
        assert [clusters[name].counters.execs.total() for name in ("sim-0", "sim-1")] == [1, 1]

    @pytest.mark.parametrize("node", ["gpu-0000", "gpu-0002"])
    async def test_the_newest_pod_is_read_as_in_a_collector(self, clusters: Clusters, node: str):
        clusters["sim-0"].replace_pod(node)
        for _ in range(200):
            details = await clusters.details("sim-0")
            if details.pods[0].ready == 3:
                break
        assert (details.node, details.read) == (node, clusters["sim-0"].pod(node))

    @pytest.mark.parametrize(
        ("how", "hint"),
        [
            (ExecFaultKind.EXIT_STATUS, "the node's driver may be broken; kubectl exec shows the full output"),
            (ExecFaultKind.NO_BINARY, "set `command`, or choose pods whose container has nvidia-smi"),
            (ExecFaultKind.GARBAGE, "`command` must print the output of `nvidia-smi -q -x`"),
        ],
    )
    async def test_a_failed_reading_names_the_pod_and_a_remedy(self, clusters: Clusters, how: ExecFaultKind, hint: str):
        clusters["sim-0"].fail_exec(how)
        finding = (await clusters.check())["sim-0"]
        (problem,) = finding.problems
        assert finding.details is not None
        assert problem.text.startswith(f"{clusters['sim-0'].pod(str(finding.details.node))}: ")
        assert (problem.hint, finding.details.gpus) == (hint, None)

    @pytest.mark.parametrize(
        ("denial", "hint"),
        [
            (
                "ValidatingAdmissionPolicy 'gpuid-exec' with binding 'gpuid-exec' denied request: no",
                "gpuid grant --apply",
            ),
            ('admission webhook "guard.corp" denied the request: no', "the cluster's admission control denies it"),
        ],
    )
    async def test_a_denial_by_admission_is_not_a_missing_right(
        self, clusters: Clusters, monkeypatch: pytest.MonkeyPatch, denial: str, hint: str
    ):
        def refuse(*_: object) -> None:
            raise ReadError(ReadFailure.FORBIDDEN, denial)

        monkeypatch.setattr("collector.checks.cluster_check.pod_reader", refuse)
        ((_text, found),) = await clusters.problems("sim-0")
        assert found.startswith(hint)

    @pytest.mark.parametrize(
        ("shape", "setting"),
        [
            ("gke", '[{ namespace = "kube-system", selector = "NAME", container = "nvidia-gpu-device-plugin" }]'),
            ("dra", '[{ namespace = "dra-driver-nvidia-gpu", selector = "NAME", container = "gpus" }]'),
            ("gke", ""),  # the preset, and a command for all clusters
        ],
    )
    async def test_pods_of_another_preset_suggest_that_preset(self, tmp_path: Path, shape: str, setting: str):
        (preset,) = config.PRESETS[shape]
        (tmp_path / "simulator").mkdir()
        async with Simulator(
            clusters=1, nodes=1, gpus=1, latency=0.001, directory=tmp_path / "simulator", shapes=[shape]
        ) as simulator:
            clusters = Clusters(simulator, tmp_path)
            more = f"sources = {setting.replace('NAME', preset.selector)}" if setting else f'preset = "{shape}"'
            clusters.configure(f'command = ["nvidia-smi", "-q", "-x"]\n{more}')
            ((text, hint),) = await clusters.problems("sim-0")
        assert "executable file not found" in text
        assert hint == f'set command = {json.dumps(list(preset.command))}, as in preset = "{shape}" for these pods'

    @pytest.mark.parametrize("how", [{"silent": True}, {"listed": True}])
    async def test_a_gpu_that_does_not_answer_is_a_problem(self, clusters: Clusters, how: dict[str, bool]):
        cluster = clusters["sim-0"]
        for node in cluster.nodes:
            cluster.lose_gpu(node, None, **how)
        ((text, hint),) = await clusters.problems("sim-0")
        assert re.fullmatch(r".*: the GPU at 0{8}:[0-9A-F]{2}:00\.0 does not respond", text)
        assert hint == "reset it, or replace the card"

    async def test_a_node_where_no_gpu_answers_is_a_problem(self, clusters: Clusters):
        cluster = clusters["sim-0"]
        for node, cards in [(node, clusters.cards("sim-0", node)) for node in cluster.nodes]:
            for card in cards:
                cluster.lose_gpu(node, card.uuid, silent=True)
        texts = [text.partition(": ")[2] for text, _hint in await clusters.problems("sim-0")]
        assert texts[0].startswith("the command exited with status 255: Unable to determine the device handle")
        assert len(texts) > 2
        assert all(re.fullmatch(r"the GPU at [0-9A-F:.]{16} does not respond", text) for text in texts[1:])

    async def test_a_missing_container_is_a_problem(self, clusters: Clusters):
        source = '{namespace = "gpu-operator", selector = "app=nvidia-device-plugin-daemonset", container = "x"}'
        clusters.configure(f'[[clusters]]\nname = "x"\ncontext = "sim-1"\nsources = [{source}]')
        (text, hint), *_duplicate = await clusters.problems("x")
        assert text.startswith("gpu-operator/")
        assert text.endswith(': the pod has no container named "x"')
        assert hint == (
            'preset = "gpu-operator" fits: 3 of 3 GPU nodes covered by pods of nvidia-device-plugin in namespace'
            " gpu-operator"
        )


class TestConnection:
    async def test_a_cluster_that_is_down_does_not_affect_others(self, clusters: Clusters):
        await clusters["sim-0"].stop()
        findings = await clusters.check()
        assert findings["sim-0"].text == (
            f"{clusters['sim-0'].url}: connection refused (check the address; is a VPN or a proxy-url needed?)"
        )
        assert findings["sim-1"].ok

    async def test_an_unknown_context_lists_the_known_ones(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-9"')
        ((text, _hint),) = await clusters.problems("x")
        assert text.startswith('no context "sim-9" in ')
        assert "sim-0" in text

    async def test_rejected_credentials_name_the_login_to_renew(self, clusters: Clusters):
        clusters["sim-0"].refuse_tokens()
        ((text, hint),) = await clusters.problems("sim-0")
        assert text.startswith(f"{clusters['sim-0'].url}: unauthorized")
        assert (
            hint == f"log in again; `kubectl --kubeconfig {clusters.path} --context sim-0 get nodes` fails the same way"
        )

    @pytest.mark.parametrize(
        ("kubeconfig", "context", "command"),
        [
            (None, "prod", "kubectl --context prod get nodes"),
            ("/a b/c", "a'b", """kubectl --kubeconfig '/a b/c' --context 'a'"'"'b' get nodes"""),
            ("/a:/b", "prod", "KUBECONFIG=/a:/b kubectl --context prod get nodes"),
            (None, "a\n\x1b'\\b", r"kubectl --context $'a\x0a\x1b\'\\b' get nodes"),
        ],
    )
    def test_the_command_to_try_works_as_printed(self, kubeconfig: str | None, context: str, command: str):
        settings = ClusterSettings(name="x", context=context, kubeconfig=kubeconfig)
        assert ClusterCheck(settings, 1).hint(UnauthorizedError("")) == f"log in again; `{command}` fails the same way"

    async def test_an_unreachable_issuer_is_not_reported_as_a_plugin(self, clusters: Clusters):
        clusters.log_in_at("https://127.0.0.1:1")
        ((text, hint),) = await clusters.problems("sim-0")
        assert "oidc: issuer https://127.0.0.1:1: " in text
        assert hint == (
            "check idp-issuer-url and idp-certificate-authority in the kubeconfig; is the issuer reachable from here?"
        )

    async def test_outside_a_pod_the_error_does_not_blame_the_kubeconfig(
        self, clusters: Clusters, monkeypatch: pytest.MonkeyPatch
    ):
        for variable in ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
            monkeypatch.delenv(variable, raising=False)
        clusters.configure('[[clusters]]\nname = "x"\nin_cluster = true')
        assert await clusters.problems("x") == [
            ("in_cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; is this a pod?", "")
        ]

    async def test_an_untrusted_certificate_names_the_kubeconfigs_keys(self, clusters: Clusters):
        clusters.distrust()
        ((text, hint),) = await clusters.problems("sim-0")
        assert text.startswith(f"{clusters['sim-0'].url}: certificate verify failed: ")
        assert hint == "check certificate-authority and tls-server-name in the kubeconfig"

    async def test_a_server_without_the_kubernetes_api_is_named(self, clusters: Clusters):
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(text="<html>Log in</html>", content_type="text/html")

        proxy = web.Application()
        proxy.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(proxy) as server:
            url = str(server.make_url("/")).rstrip("/")
            clusters.go_to(url)
            ((text, _hint),) = await clusters.problems("sim-0")
        assert text.startswith(f"{url}: not a Kubernetes API response: ")

    @pytest.mark.parametrize(
        ("action", "args", "step"),
        [
            ("freeze_connections", [True], "reaching its API server"),
            ("hang_exec", [], "running nvidia-smi in gpu-operator/"),
        ],
    )
    async def test_nothing_hangs(self, clusters: Clusters, action: str, args: list[Any], step: str):
        done = getattr(clusters["sim-0"], action)(*args)
        if inspect.isawaitable(done):
            await done
        ((text, _hint),) = await clusters.problems("sim-0", timeout=3)
        assert text.startswith(f"no answer within 3 s while {step}")

    async def test_a_hanging_credential_plugin_is_named(self, clusters: Clusters):
        clusters.authenticate_by("sleep", "60")
        ((text, hint),) = await clusters.problems("sim-0", timeout=3)
        assert text.endswith('exec plugin "sleep" timed out after 2.7 s and was killed')
        command = f"kubectl --kubeconfig {clusters.path} --context sim-0 get nodes"
        assert hint == f"`{command}` runs the same plugin and shows its output"


class TestKubeconfig:
    """An error in a kubeconfig is a problem of its cluster only."""

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("clusters: [", "not valid YAML (line 2)"),
            ("<html>", "not a kubeconfig but an HTML or XML page"),
            ("kind: Deployment", "not a kubeconfig: it is a Deployment; expected kind: Config"),
        ],
    )
    async def test_an_error_names_the_file_and_the_cause(
        self, clusters: Clusters, tmp_path: Path, text: str, problem: str
    ):
        path = tmp_path / "bad"
        path.write_text(text)
        clusters.configure(f'[[clusters]]\nname = "x"\ncontext = "c"\nkubeconfig = "{path}"')
        findings = await clusters.check()
        assert [finding.ok for finding in findings.values()] == [True, True, False]
        assert findings["x"].problems[0].text == f"{path}: {problem}"

    async def test_a_user_without_credentials_gets_a_remedy(self, clusters: Clusters):
        clusters.without_credentials()
        ((text, hint),) = await clusters.problems("sim-0")
        assert text.endswith('; user "sim-0" of the kubeconfig has no credentials')
        assert hint == "give the user a token, a certificate or an exec plugin (kubectl config set-credentials)"


class TestOtherServers:
    @pytest.mark.parametrize(
        "body",
        [
            "<html>Sign in</html>",
            '{"kind": "PodList", "metadata": null}',
            "null",
            '{"kind":null,"metadata":null,"items":null}',
        ],
    )
    async def test_another_kind_of_server_is_named_with_its_address(
        self, clusters: Clusters, tmp_path: Path, body: str
    ):
        async def answer(_request: web.Request) -> web.Response:
            return web.Response(text=body)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        path = tmp_path / "portal"
        path.write_text(
            f"clusters: [{{name: c, cluster: {{server: '{url}'}}}}]\ncontexts: [{{name: c, context: {{cluster: c}}}}]"
        )
        clusters.configure(f'[[clusters]]\nname = "x"\ncontext = "c"\nkubeconfig = "{path}"')
        ((text, hint),) = await clusters.problems("x")
        await runner.cleanup()
        assert text.startswith(f"{url}: not a Kubernetes API response: ")
        assert hint == "a sign-in page or proxy may be responding instead of the API server; check the address"


class TestRights:
    async def test_each_missing_right_names_the_rule_that_grants_it(self, clusters: Clusters):
        clusters["sim-0"].deny("create", "pods/exec")
        clusters["sim-0"].deny("list", "nodes")
        clusters["sim-0"].deny("watch", "nodes")
        assert await clusters.problems("sim-0") == [
            (
                "may not list or watch nodes",
                'add {apiGroups: [""], resources: ["nodes"], verbs: ["list","watch"]} to a ClusterRole',
            ),
            (
                "may not create pods/exec in namespace gpu-operator",
                'add {apiGroups: [""], resources: ["pods/exec"], verbs: ["create"]}'
                " to a Role in namespace gpu-operator",
            ),
        ]
        assert clusters["sim-0"].counters.execs.total() == 0

    async def test_labels_need_the_right_to_patch_nodes(self, clusters: Clusters):
        clusters["sim-1"].deny("patch", "nodes")
        assert await clusters.problems("sim-1") == []
        clusters.configure("labels = true")
        assert await clusters.problems("sim-1") == [
            (
                "may not patch nodes",
                'add {apiGroups: [""], resources: ["nodes"], verbs: ["patch"]} to a ClusterRole',
            )
        ]

    async def test_without_the_right_to_list_pods_none_are_reported_missing(self, clusters: Clusters):
        clusters["sim-0"].deny("list", "pods")
        finding = (await clusters.check())["sim-0"]
        assert [problem.text for problem in finding.problems] == ["may not list pods in namespace gpu-operator"]
        assert finding.details is not None
        assert finding.details.pods == []

    async def test_without_it_a_preset_with_listable_pods_is_suggested(self, clusters: Clusters):
        for namespace in ("", "kube-system"):
            clusters["sim-0"].deny("list", "pods", namespace)
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-0"\npreset = "gke"')
        missing, (text, hint) = await clusters.problems("x")
        assert missing[0] == "may not list pods in namespace kube-system"
        assert text == "the GPU pods are elsewhere"
        assert hint.startswith('preset = "gpu-operator" fits: 3 of 3 GPU nodes covered')

    async def test_a_server_without_access_reviews_is_judged_by_its_answers(self, clusters: Clusters):
        clusters["sim-0"].deny("create", "selfsubjectaccessreviews")
        clusters["sim-0"].deny("create", "selfsubjectreviews")
        finding = (await clusters.check())["sim-0"]
        assert finding.ok
        assert finding.details is not None
        assert (finding.details.user, finding.details.rights, finding.details.gpus) == (None, {}, 4)


class TestDuplicates:
    async def test_the_second_context_of_one_cluster_is_the_problem(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-0"')
        findings = await clusters.check()
        assert [finding.ok for finding in findings.values()] == [True, True, False]
        (problem,) = findings["x"].problems
        assert '"sim-0"' in problem.text
        assert "gpu-000" in problem.text

    @pytest.mark.parametrize(
        ("more", "ok", "problem"),
        [
            ('node_selector = "kubernetes.io/hostname=gpu-0001"', False, "gpu-0001"),
            ('node_selector = "pool=x"', True, ""),
            ('preset = "gke"', False, "no pods match "),  # without a pod, the collector reads no node there
        ],
    )
    async def test_parts_of_a_cluster_must_not_share_a_gpu_node(
        self, clusters: Clusters, more: str, ok: bool, problem: str
    ):
        clusters.configure(f'[[clusters]]\nname = "x"\ncontext = "sim-0"\n{more}')
        finding = (await clusters.check())["x"]
        assert (finding.ok, len(finding.problems)) == (ok, 0 if ok else 1)
        assert problem in finding.text

    async def test_without_the_right_to_list_nodes_they_stay_unknown(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-0"')
        clusters["sim-0"].deny("list", "nodes")
        found = [[problem.text for problem in finding.problems] for finding in (await clusters.check()).values()]
        assert found == [["may not list nodes"], [], ["may not list nodes"]]


class TestPods:
    async def test_without_pods_the_preset_that_fits_is_named(self, clusters: Clusters):
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-0"\npreset = "gke"')
        finding = (await clusters.check())["x"]
        assert finding.text == (
            'no pods match "k8s-app=nvidia-gpu-device-plugin" in namespace kube-system (preset = "gpu-operator" fits: 3'
            " of 3 GPU nodes covered by pods of nvidia-device-plugin in namespace gpu-operator)"
        )
        assert finding.details is not None
        assert finding.details.fit == FitDetails(
            setting='preset = "gpu-operator"',
            presets=("gpu-operator",),
            sources=(),
            covered=3,
            gpu_nodes=3,
            uncovered=(),
            namespaces=None,
        )

    async def test_the_namespaces_searched_are_named_if_no_pod_matches(self, clusters: Clusters):
        for node in clusters["sim-0"].nodes:
            clusters["sim-0"].remove_pod(node)
        clusters["sim-0"].deny("list", "pods", "")
        clusters["sim-0"].deny("list", "pods", "kube-system")
        ((text, hint),) = await clusters.problems("sim-0")
        assert text == 'no pods match "app=nvidia-device-plugin-daemonset" in namespace gpu-operator'
        assert hint.startswith(
            "set `preset` or `sources` to the pods that can run nvidia-smi; to search other namespaces, run"
            " gpuid check or gpuid init as a user who may list pods in all namespaces; may not list pods in all"
            " namespaces: searched only gpu-operator, "
        )
        assert "kube-system" not in hint

    async def test_a_preset_that_covers_more_nodes_is_suggested(self, clusters: Clusters):
        cluster = clusters["sim-0"]
        chart = SHAPES["helm"]._replace(namespace="nvidia")
        cluster.remove_pod("gpu-0002")
        add_pods(cluster, chart, "gpu-0001", "gpu-0002")
        ((text, hint),) = await clusters.problems("sim-0")
        assert text == "1 of 3 GPU nodes without a ready GPU pod: gpu-0002"
        setting, _, seen = hint.partition(" fits: ")
        assert [source["namespace"] for source in tomllib.loads(setting)["sources"]] == ["gpu-operator", "nvidia"]
        assert seen == (
            "3 of 3 GPU nodes covered by pods of nvidia-device-plugin in namespace gpu-operator and pods of"
            " nvidia-device-plugin-ctr in namespace nvidia; make sure that only administrators can create pods in"
            " namespace nvidia, which no preset uses: its pods determine which GPUs are reported"
        )
        clusters.configure(f'[[clusters]]\nname = "x"\ncontext = "sim-0"\n{setting}')
        ((text, _hint),) = await clusters.problems("x")
        assert text.startswith('it is the same cluster as "sim-0"')

    async def test_a_preset_with_ready_pods_is_suggested(self, clusters: Clusters):
        cluster = clusters["sim-0"]
        cluster.set_ready("gpu-0002", False)
        finding = (await clusters.check())["sim-0"]
        assert finding.text.startswith("1 of 3 GPU nodes without a ready GPU pod: gpu-0002 (each needs a ready pod")
        assert finding.details is not None
        assert finding.details.fit is None
        add_pods(cluster, SHAPES["gke"], "gpu-0002")
        ((_text, hint),) = await clusters.problems("sim-0")
        assert hint.startswith('preset = ["gpu-operator", "gke"] fits: 3 of 3 GPU nodes covered by ')

    @pytest.mark.parametrize(
        ("error", "hint"),
        [
            (UnreachableError("lost"), "nvidia-smi; could not look for other presets: lost"),
            (None, "set `preset` or `sources` to the pods that can run nvidia-smi"),
        ],
    )
    async def test_the_problem_remains_if_other_presets_cannot_be_tried(
        self, clusters: Clusters, monkeypatch: pytest.MonkeyPatch, error: Exception | None, hint: str
    ):
        async def look(*_: object) -> None:
            if error:
                raise error
            await anyio.sleep_forever()

        monkeypatch.setattr("collector.checks.cluster_check.look_for_pods", look)
        clusters.configure('[[clusters]]\nname = "x"\ncontext = "sim-0"\npreset = "gke"')
        first, *more = await clusters.problems("x", timeout=30 if error else 3)
        assert first[0].startswith("no pods match ")
        assert first[1].endswith(hint)
        assert [text for text, _hint in more] == (
            [] if error else ["no answer within 3 s while looking for pods of other presets"]
        )

    async def test_pods_are_counted_if_none_is_ready(self, clusters: Clusters):
        for node in clusters["sim-0"].nodes:
            clusters["sim-0"].set_ready(node, False)
        finding = (await clusters.check())["sim-0"]
        assert finding.details is not None
        assert (finding.details.pods[0].ready, finding.details.pods[0].total) == (0, 3)
        assert finding.text == "no pod is ready (see `kubectl describe pod`)"

    async def test_gpu_nodes_without_a_ready_pod_are_named_unless_new(self, clusters: Clusters):
        clusters["sim-0"].remove_pod("gpu-0000")
        clusters["sim-0"].rename_container("gpu-0001", "gpu-feature-discovery")
        clusters["sim-0"].add_node("gpu-0009")
        clusters["sim-0"].remove_pod("gpu-0009")
        ((text, hint),) = await clusters.problems("sim-0")
        assert text == "2 of 4 GPU nodes without a ready GPU pod: gpu-0000, gpu-0001"
        assert "node_selector" in hint

    async def test_other_pods_with_the_same_label_are_not_read(self, clusters: Clusters):
        for node in ("gpu-0000", "gpu-0001"):
            clusters["sim-0"].rename_container(node, "gpu-feature-discovery")
        details = await clusters.details("sim-0")
        assert (details.node, details.gpus) == ("gpu-0002", 4)
        assert [(count.ready, count.total) for count in details.pods] == [(1, 1)]


class TestLogs:
    @pytest.fixture
    def logs(self, clusters: Clusters) -> Clusters:
        selector = "app.kubernetes.io/name=gpuid-reader"
        source = f'{{namespace = "gpuid", selector = "{selector}", container = "reader", method = "log"}}'
        clusters.configure(f'[[clusters]]\nname = "x"\ncontext = "sim-1"\nsources = [{source}]')
        for verb in ("create", "get"):
            clusters["sim-1"].deny(verb, "pods/exec")
        clusters["sim-1"].add_readers(age=86400.0)
        return clusters

    async def problems(self, clusters: Clusters) -> list[tuple[str, str]]:
        return [one for one in await clusters.problems("x") if "is the same cluster" not in one[0]]

    async def test_a_log_is_read_without_the_right_to_exec(self, logs: Clusters):
        details = (await logs.check())["x"].details
        assert details is not None
        assert (details.gpus, details.read.split("-")[0] if details.read else "") == (4, "gpuid/gpuid")
        assert details.rights["get pods/log in gpuid"]
        assert not [right for right in details.rights if "exec" in right]
        assert await self.problems(logs) == []

    async def test_a_missing_right_names_the_rule_that_grants_it(self, logs: Clusters):
        logs["sim-1"].deny("get", "pods/log")
        ((text, hint),) = await self.problems(logs)
        assert text == "may not get pods/log in namespace gpuid"
        assert '"pods/log"' in hint

    @pytest.mark.parametrize(
        ("how", "text", "hint"),
        [
            (LogFaultKind.EMPTY, "does the pod print", "whose log was just rotated"),
            (LogFaultKind.OTHER, "waiting for the driver", "kubectl logs shows the pod's output"),
            (LogFaultKind.OLD, "was printed 120 min ago", "kubectl logs shows whether the pod still prints"),
        ],
    )
    async def test_an_unusable_log_names_a_remedy(self, logs: Clusters, how: LogFaultKind, text: str, hint: str):
        logs["sim-1"].fail_log(how, seconds=7200)
        ((problem, remedy),) = await self.problems(logs)
        assert text in problem
        assert hint in remedy
        assert "running" not in problem

    async def test_a_slow_clock_does_not_make_a_document_old(self, logs: Clusters):
        logs["sim-1"].add_readers()
        logs["sim-1"].fail_log(LogFaultKind.CLOCK, seconds=-7200)
        assert await self.problems(logs) == []


class TestResourceSlices:
    async def test_gpus_that_only_slices_list_are_known(self, clusters: Clusters):
        clusters["sim-0"].publish_slices()
        clusters["sim-0"].remove_pod("gpu-0001")
        finding = (await clusters.check())["sim-0"]
        assert finding.details is not None
        assert finding.details.resource_slices == "ResourceSlices list 12 GPUs on 3 nodes"
        assert [problem.text for problem in finding.problems] == ["1 of 3 GPU nodes without a ready GPU pod: gpu-0001"]

    async def test_they_are_mentioned_if_no_pod_matches(self, clusters: Clusters):
        clusters["sim-0"].publish_slices()
        for node in clusters["sim-0"].nodes:
            clusters["sim-0"].remove_pod(node)
        (problem,) = (await clusters.check())["sim-0"].problems
        assert problem.text.startswith("no pods match ")
        assert problem.text.endswith("; ResourceSlices list 12 GPUs on 3 nodes")
        clusters["sim-0"].deny("list", "resourceslices")
        (problem,) = (await clusters.check())["sim-0"].problems
        assert "; ResourceSlices are not visible: may not list" in problem.text

    @pytest.mark.parametrize("verb", ["list", "watch"])
    async def test_a_missing_right_is_reported_but_not_as_a_problem(self, clusters: Clusters, verb: str):
        clusters["sim-0"].publish_slices()
        clusters["sim-0"].deny(verb, "resourceslices")
        finding = (await clusters.check())["sim-0"]
        text = f"ResourceSlices are not visible: may not {verb} resourceslices.resource.k8s.io; without them, "
        assert finding.ok
        assert finding.text.startswith(text)

    async def test_a_server_without_the_api_lists_none(self, clusters: Clusters):
        finding = (await clusters.check())["sim-0"]
        assert finding.details is not None
        assert (finding.text, finding.details.resource_slices) == ("", "the API server has no ResourceSlices")


class TestServiceAccountTokens:
    async def test_notes_on_the_token_and_slices_are_both_shown(self, clusters: Clusters):
        clusters["sim-0"].publish_slices()
        clusters["sim-0"].deny("list", "resourceslices")
        clusters["sim-0"].bind_token(3600)
        clusters.name_token_file()
        finding = (await clusters.check())["sim-0"]
        token, slices, *_ = finding.text.split("; ResourceSlices ")
        assert (finding.ok, "its token expires on " in token, "not visible" in slices) == (True, True, True)

    async def test_a_self_renewing_token_is_named_with_its_expiry(self, clusters: Clusters):
        clusters["sim-0"].bind_token(3600)
        clusters.name_token_file()
        finding = (await clusters.check())["sim-0"]
        assert finding.details is not None
        token = finding.details.token
        assert token is not None
        assert finding.ok
        assert (token.user, token.renewable, token.kept) == ("system:serviceaccount:gpuid:gpuid", True, True)
        assert finding.text == f"its token expires on {token.expiry}; gpuid renews it; {NOT_IN_FORCE}"
        assert finding.details.credential_expiry is None

    async def test_a_token_in_the_kubeconfig_is_renewed_only_in_memory(self, clusters: Clusters):
        clusters["sim-0"].bind_token(3600)
        finding = (await clusters.check())["sim-0"]
        assert finding.details is not None
        assert finding.details.token is not None
        assert (finding.details.token.renewable, finding.details.token.kept) == (True, False)
        assert "; gpuid renews it only in memory: the kubeconfig: it is inline in the kubeconfig" in finding.text
        assert finding.details.credential_expiry == finding.details.token.expiry

    async def test_a_token_without_the_right_says_so(self, clusters: Clusters):
        clusters["sim-0"].bind_token(3600)
        clusters["sim-0"].deny("create", "serviceaccounts/token")
        clusters.name_token_file()
        finding = (await clusters.check())["sim-0"]
        assert finding.details is not None
        assert finding.details.token is not None
        assert finding.ok
        assert finding.details.token.renewable is False
        assert "; gpuid cannot renew it: it may not create serviceaccounts/token for itself" in finding.text
        assert finding.details.credential_expiry == finding.details.token.expiry

    async def test_it_is_shown_in_addition_to_other_notes(self, clusters: Clusters):
        clusters["sim-0"].bind_token(3600)
        clusters["sim-0"].publish_slices()
        clusters["sim-0"].deny("list", "resourceslices")
        token, slices = (await clusters.check())["sim-0"].text.split("; ResourceSlices ")
        assert token.startswith("its token expires on ")
        assert slices.startswith("are not visible")

    async def test_an_expired_token_says_how_to_get_another(self, clusters: Clusters):
        clusters["sim-0"].bind_token(3600, age=7200)
        ((text, hint),) = await clusters.problems("sim-0")
        assert text.endswith(" and gpuid cannot renew it; replace it")
        assert hint == "create a new one with `gpuid grant CLUSTER --kubeconfig FILE`"

    async def test_a_token_without_an_expiry_is_not_mentioned(self, clusters: Clusters):
        finding = (await clusters.check())["sim-0"]
        assert finding.details is not None
        assert (finding.details.token, finding.text) == (None, "")
