"""What is learned about a cluster by asking it, against simulated API servers and hostile ones."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from collector.checks.fitting import Fit
from collector.checks.gpu_pods import MAX_NAMESPACES, FitCheck, find_fits
from collector.config import OTHER_SOURCES, PRESETS, ClusterSettings, PodSource
from collector.simulator import SHAPES, SimulatedCluster, Simulator
from collector.simulator.objects import PODS
from collector.simulator.shapes import Shape
from tests.support.gpu_pods import add_pods

pytestmark = pytest.mark.anyio

ELSEWHERE = SHAPES["helm"]._replace(name="elsewhere", namespace="nvidia")


def like(preset: str, name: str, namespace: str, label: str) -> Shape:
    """Return a shape that has its pods in another namespace and with another label."""
    shape = SHAPES[preset]
    pods = shape.gpu_pods._replace(labels=dict([label.split("=")]))
    return shape._replace(name=name, namespace=namespace, gpu_pods=pods, controller="")


OTHERS = (
    like("device-plugin", "operator-1.8", "gpu-operator-resources", "app=nvidia-device-plugin-daemonset"),
    like("dra", "dra-25", "nvidia-dra-driver-gpu", "nvidia-dra-driver-gpu-component=kubelet-plugin"),
    like("dra", "gpucluster", "gpu-operator", "app=nvidia-dra-driver-kubelet-plugin"),
)


@pytest.fixture
async def simulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Simulator]:
    """A cluster of each shape, and those that no preset fits."""
    shapes = {**SHAPES, **{shape.name: shape for shape in (ELSEWHERE, *OTHERS)}}
    monkeypatch.setattr("collector.simulator.simulator.SHAPES", shapes)
    async with Simulator(
        clusters=len(shapes), nodes=2, gpus=2, directory=tmp_path, shapes=list(shapes), latency=0.001
    ) as running:
        yield running


def named(simulator: Simulator, shape: str) -> SimulatedCluster:
    return next(cluster for cluster in simulator.clusters.values() if cluster.shape.name == shape)


async def ask(simulator: Simulator, shape: str, **settings: Any) -> FitCheck:
    cluster = ClusterSettings(context=named(simulator, shape).name, kubeconfig=str(simulator.kubeconfig), **settings)
    (check,) = await find_fits([cluster], 30)
    return check


async def fit(simulator: Simulator, shape: str, **settings: Any) -> Fit:
    check = await ask(simulator, shape, **settings)
    assert check.fit is not None, check.finding.text
    return check.fit


async def test_each_shape_gets_its_preset(simulator: Simulator):
    clusters = [ClusterSettings(context=name, kubeconfig=str(simulator.kubeconfig)) for name in simulator.clusters]
    done: list[None] = []
    checks = await find_fits(clusters, 30, lambda: done.append(None))
    found = {
        cluster.shape.name: check.fit.presets
        for cluster, check in zip(simulator.clusters.values(), checks, strict=True)
        if check.fit is not None and (check.fit.covered, check.fit.uncovered) == (2, ())
    }
    expected: dict[str, tuple[str, ...]] = {name: (name,) for name in SHAPES}
    # Where the driver's pods are, those of the device plugin are too.
    assert found == expected | {"driver": ("gpu-operator",)} | {shape.name: () for shape in (ELSEWHERE, *OTHERS)}
    assert len(done) == len(clusters)


async def test_pods_are_found_in_any_namespace(simulator: Simulator):
    found = await fit(simulator, "elsewhere")
    (source,) = found.sources
    assert (source.namespace, source.selector) == ("nvidia", PRESETS["helm"][0].selector)
    (group,) = found.groups
    assert (group.ready, group.total) == (2, 2)  # and not those of GFD and MPS, under the same label


@pytest.mark.parametrize(("shape", "source"), [*zip([one.name for one in OTHERS], OTHER_SOURCES, strict=True)])
async def test_installations_without_a_preset_are_recognised(simulator: Simulator, shape: str, source: PodSource):
    found = await fit(simulator, shape)
    assert (found.sources, found.covered, found.uncovered) == ((source,), 2, ())
    named(simulator, shape).deny("list", "pods", "")
    assert (await fit(simulator, shape)).sources == (source,)


async def test_without_that_right_the_presets_namespaces_are_looked_at(simulator: Simulator):
    cluster = named(simulator, "helm")
    cluster.deny("list", "pods", "")
    cluster.deny("list", "pods", "kube-system")
    found = await fit(simulator, "helm")
    assert found.presets == ("helm",)
    known = (*(source for preset in PRESETS.values() for source in preset), *OTHER_SOURCES)
    namespaces = dict.fromkeys((*(source.namespace for source in known), "nvidia"))
    assert found.survey.namespaces == tuple(name for name in namespaces if name != "kube-system")
    assert cluster.counters.responses[403] == 0
    named(simulator, "elsewhere").deny("list", "pods", "")
    named(simulator, "elsewhere").deny("list", "pods", "nvidia")
    missed = await fit(simulator, "elsewhere")
    assert (missed.setting, missed.uncovered) == ("", ("gpu-0000", "gpu-0001"))
    assert missed.survey.limits.startswith("may not list pods in all namespaces: searched only gpu-operator, ")


async def test_a_server_without_access_reviews_is_asked_for_a_pod(simulator: Simulator):
    for shape in ("gke", "elsewhere"):
        named(simulator, shape).deny("create", "selfsubjectaccessreviews")
    named(simulator, "gke").deny("list", "pods", "")
    named(simulator, "gke").deny("list", "nodes")
    found = await fit(simulator, "gke")
    assert (found.presets, found.survey.gpu_nodes, found.covered) == (("gke",), None, 2)
    assert (await fit(simulator, "elsewhere")).sources


async def test_gpu_nodes_without_pods_are_named(simulator: Simulator):
    for node in ("gpu-0000", "gpu-0001"):
        named(simulator, "reader").remove_pod(node)
    named(simulator, "aks").remove_pod("gpu-0001")
    found = await fit(simulator, "reader")
    assert (found.setting, found.seen) == ('preset = "reader"', "none of 2 GPU nodes has a pod of any preset")
    found = await fit(simulator, "aks")
    assert (found.setting, found.uncovered) == ('preset = "aks"', ("gpu-0001",))
    assert 'set preset = ["aks", "reader"]' in found.remedy
    assert not (await fit(simulator, "aks", node_selector="kubernetes.io/hostname=gpu-0000")).uncovered


async def test_a_pod_that_is_not_ready_leaves_its_node_to_another(simulator: Simulator):
    named(simulator, "driver").set_ready("gpu-0001", False)  # of the driver
    add_pods(named(simulator, "gke"), SHAPES["reader"], "gpu-0001")
    named(simulator, "gke").set_ready("gpu-0001", False)
    assert (await fit(simulator, "driver")).presets == ("gpu-operator",)
    assert (await fit(simulator, "gke")).presets == ("gke", "reader")


async def test_an_evicted_pod_covers_nothing(simulator: Simulator):
    cluster = named(simulator, "aks")
    cluster.objects.edit(PODS, cluster.pod("gpu-0001"), lambda pod: pod["status"].update(phase="Failed"))
    found = await fit(simulator, "aks")
    assert (found.covered, found.uncovered, found.groups[0].total) == (1, ("gpu-0001",), 1)


async def test_gpu_nodes_that_only_slices_name_are_counted(simulator: Simulator):
    cluster = named(simulator, "device-plugin")
    cluster.publish_slices()
    cluster.remove_pod("gpu-0001")
    found = await fit(simulator, "device-plugin")
    assert found.survey.gpu_nodes == frozenset({"gpu-0000", "gpu-0001"})
    assert found.uncovered == ("gpu-0001",)
    assert not (await fit(simulator, "device-plugin", node_selector="kubernetes.io/hostname=gpu-0000")).uncovered


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_slices_a_collector_would_not_see_are_not_listed(simulator: Simulator, verb: str):
    cluster = named(simulator, "device-plugin")
    cluster.publish_slices()
    cluster.deny(verb, "resourceslices")
    found = await fit(simulator, "device-plugin")
    assert (found.presets, found.covered, found.survey.gpu_nodes) == (("device-plugin",), 2, frozenset())
    assert cluster.counters.responses[403] == 0


async def test_a_failed_search_has_a_reason(simulator: Simulator):
    cluster = named(simulator, "gke")
    await cluster.stop()
    check = await ask(simulator, "gke")
    assert (check.fit, check.finding.text) == (None, f"{cluster.url}: connection refused")


async def test_an_unresponsive_cluster_delays_only_itself(simulator: Simulator):
    named(simulator, "gke").freeze_connections(new=True)
    clusters = [
        ClusterSettings(context=named(simulator, shape).name, kubeconfig=str(simulator.kubeconfig))
        for shape in ("gke", "helm")
    ]
    frozen, other = await find_fits(clusters, 3)
    assert frozen.finding.text.startswith("no answer within 3 s while ")
    assert other.fit is not None


def page(items: list[Any], **metadata: str) -> dict[str, Any]:
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"} | metadata, "items": items}


def pod(name: str, namespace: str, container: str = "nvidia-device-plugin-ctr") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": f"node-{name}", "containers": [{"name": container}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": container, "ready": True}]},
    }


@pytest.mark.parametrize("how", ["listed", "context"])
async def test_pods_are_looked_for_wherever_they_may_be_listed(tmp_path: Path, how: str):
    """On a server that grants pods of the namespace `team`, and may let us see which namespaces there are."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        if request.method == "POST":
            right = (await request.json())["spec"]["resourceAttributes"]
            place = (right["resource"], right.get("namespace", ""))
            allowed = place in {("pods", "team"), ("nodes", "")} or (how == "listed" and place[0] == "namespaces")
            return web.json_response({"spec": {}, "status": {"allowed": allowed}})
        if request.path == "/api/v1/namespaces":
            names = ["a", "team", "B\x1b[31m", *(f"ns-{number}" for number in range(2 * MAX_NAMESPACES))]
            return web.json_response(page([{"metadata": {"name": name}} for name in names]))
        asked.append(request.path)
        selected = request.query.get("labelSelector") == PRESETS["helm"][0].selector
        return web.json_response(page([pod("p1", "team")] if selected and "team" in request.path else []))

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server:
        path = tmp_path / "kubeconfig"
        context = "{cluster: c, namespace: team}" if how == "context" else "{cluster: c}"
        path.write_text(
            f"clusters: [{{name: c, cluster: {{server: '{server.make_url('')}'}}}}]\n"
            f"contexts: [{{name: c, context: {context}}}]"
        )
        (check,) = await find_fits([ClusterSettings(context="c", kubeconfig=str(path))], 30)
    assert check.fit is not None, check.finding.text
    assert [source.namespace for source in check.fit.sources] == ["team"]
    assert check.fit.survey.namespaces == ("team",)
    assert {path for path in asked if path.endswith("/pods")} == {"/api/v1/namespaces/team/pods"}


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Ask a server that answers every list of pods with one text."""
    servers: list[TestServer] = []

    async def run(body: str, **settings: Any) -> FitCheck:
        async def answer(request: web.Request) -> web.Response:
            if request.path.endswith("/nodes"):
                return web.json_response(page([]))
            if request.method == "POST":
                return web.json_response({"status": {"allowed": True}})
            return web.Response(text=body, content_type="application/json")

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        server = TestServer(application)
        servers.append(server)
        await server.start_server()
        path = tmp_path / "kubeconfig"
        url = str(server.make_url(""))
        path.write_text(
            f"clusters: [{{name: c, cluster: {{server: '{url}'}}}}]\ncontexts: [{{name: c, context: {{cluster: c}}}}]"
        )
        (check,) = await find_fits([ClusterSettings(context="c", kubeconfig=str(path), **settings)], 30)
        return check

    yield run
    for server in servers:
        await server.close()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("<html>Log in</html>", "not a Kubernetes API response"),
        (json.dumps(page([5])), "not a Kubernetes API response"),
        (json.dumps(page([pod("x" * 300, "a")])), "metadata.name is longer than 253 characters"),
        (json.dumps(page([], **{"continue": "again"})), "the list of pods is endless"),
        (json.dumps(page([pod(f"p{number}", "a") for number in range(11)])), "there are more than 10 pods"),
    ],
)
async def test_a_hostile_answer_is_a_reason_in_one_line(asked: Callable[..., Any], body: str, reason: str):
    check = await asked(body, max_objects=10)
    assert check.fit is None
    assert reason in check.finding.text
    assert check.finding.text.isprintable()


async def test_namespaces_that_no_server_accepts_are_left_out(asked: Callable[..., Any]):
    names = ['a"\n[[clusters]]\ncontext = "x', "\x1b[31m", "A", "", "fine"]
    check = await asked(json.dumps(page([pod(f"p{number}", name) for number, name in enumerate(names)])))
    assert {source.namespace for source in check.fit.sources} == {"fine"}
