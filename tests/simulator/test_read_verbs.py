"""Get, list and watch, as a real API server answers them."""

from typing import Any

import aiohttp
import pytest

from collector.simulator import Simulator
from collector.simulator.objects import NODES
from tests.simulator.conftest import authority
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

PODS = "/api/v1/namespaces/gpu-operator/pods"
GPU_PODS = {"labelSelector": "app=nvidia-device-plugin-daemonset"}


def names(body: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in body["items"]]


class TestDiscovery:
    @pytest.mark.parametrize(
        ("path", "kind"),
        [
            ("/api", "APIVersions"),
            ("/apis", "APIGroupList"),
            ("/apis/coordination.k8s.io", "APIGroup"),
            ("/api/v1", "APIResourceList"),
            ("/apis/coordination.k8s.io/v1", "APIResourceList"),
            ("/apis/authorization.k8s.io/v1", "APIResourceList"),
        ],
    )
    async def test_groups_and_resources_are_listed(self, api: Any, path: str, kind: str) -> None:
        assert (await api.get(path))["kind"] == kind

    async def test_the_version_can_be_read(self, api: Any) -> None:
        assert (await api.get("/version"))["gitVersion"] == "v1.34.2"

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
    async def test_health_needs_no_token(self, api: Any, path: str) -> None:
        async with api.session.get(path, headers={"Authorization": ""}) as response:
            assert (response.status, await response.text()) == (200, "ok")

    @pytest.mark.parametrize("path", ["/apis/apps/v1/deployments", "/api/v1/secrets", "/nowhere", "/api/v2/pods"])
    async def test_an_unserved_resource_is_not_found(self, api: Any, path: str) -> None:
        status = await api.refused(path)
        assert (status["code"], status["reason"]) == (404, "NotFound")


class TestAuthentication:
    @pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic Zm9vOmJhcg=="])
    async def test_a_wrong_token_is_refused(self, api: Any, header: str) -> None:
        status, body = await api.ask("GET", "/api/v1/pods", headers={"Authorization": header})
        assert (status, body["reason"], body["message"]) == (401, "Unauthorized", "Unauthorized")


class TestGet:
    async def test_a_node_has_the_fields_of_a_cloud(self, api: Any) -> None:
        node = await api.get("/api/v1/nodes/gpu-0001")
        assert node["spec"]["providerID"].startswith("aws:///us-east-1")
        assert node["status"]["capacity"]["nvidia.com/gpu"] == "4"
        assert len(node["status"]["nodeInfo"]["bootID"]) == 36

    async def test_a_missing_object_is_not_found(self, api: Any) -> None:
        status = await api.refused(f"{PODS}/none")
        assert (status["code"], status["message"]) == (404, 'pods "none" not found')
        assert status["details"] == {"name": "none", "kind": "pods"}

    async def test_a_table_is_returned_on_request(self, api: Any) -> None:
        accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
        _, table = await api.ask("GET", "/api/v1/nodes", headers=accept)
        assert (table["kind"], table["apiVersion"]) == ("Table", "meta.k8s.io/v1")
        assert [column["name"] for column in table["columnDefinitions"]][:5] == [
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
        ]
        assert table["rows"][0]["cells"][:3] == ["cpu-0000", "Ready", "<none>"]


class TestList:
    async def test_selectors_and_namespaces_narrow_it(self, api: Any) -> None:
        everything = len((await api.get("/api/v1/pods"))["items"])
        in_namespace = len((await api.get(PODS))["items"])
        selected = await api.get(PODS, **GPU_PODS)
        assert everything > in_namespace > len(selected["items"]) == 4
        on_node = await api.get("/api/v1/pods", fieldSelector="spec.nodeName=gpu-0002", **GPU_PODS)
        assert names(on_node) == [api.cluster.pod("gpu-0002").split("/")[1]]
        assert names(await api.get("/api/v1/nodes", labelSelector="nvidia.com/gpu.present=true")) == [
            "gpu-0000",
            "gpu-0001",
            "gpu-0002",
            "gpu-0003",
        ]

    async def test_items_do_not_repeat_their_kind(self, api: Any) -> None:
        body = await api.get(PODS)
        assert (body["kind"], body["apiVersion"]) == ("PodList", "v1")
        assert "kind" not in body["items"][0]

    async def test_a_bad_selector_is_refused(self, api: Any) -> None:
        assert (await api.refused("/api/v1/pods", labelSelector="a b"))["reason"] == "BadRequest"
        assert (await api.refused("/api/v1/pods", fieldSelector="spec.x=1"))["reason"] == "BadRequest"

    async def test_pages_together_are_the_list(self, api: Any) -> None:
        whole = await api.get("/api/v1/nodes")
        page = await api.get("/api/v1/nodes", limit="4")
        assert page["metadata"]["remainingItemCount"] == 2
        rest = await api.get("/api/v1/nodes", limit="4", **{"continue": page["metadata"]["continue"]})
        assert names(page) + names(rest) == names(whole)
        assert "continue" not in rest["metadata"]

    async def test_pages_are_a_consistent_snapshot(self, api: Any) -> None:
        before = await api.get("/api/v1/nodes")
        page = await api.get("/api/v1/nodes", limit="1")
        api.cluster.delete_node("gpu-0003")
        api.cluster.add_node("gpu-0009")
        api.cluster.reboot_node("gpu-0001")
        rest = await api.get("/api/v1/nodes", **{"continue": page["metadata"]["continue"]})
        assert page["items"] + rest["items"] == before["items"]
        assert rest["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]

    async def test_a_token_expires_with_its_version(self, api: Any) -> None:
        page = await api.get("/api/v1/nodes", limit="1")
        api.cluster.expire_versions()
        status = await api.refused("/api/v1/nodes", **{"continue": page["metadata"]["continue"]})
        assert (status["code"], status["reason"]) == (410, "Expired")
        rest = await api.get("/api/v1/nodes", **{"continue": status["metadata"]["continue"]})
        assert len(rest["items"]) == 5

    async def test_an_invalid_token_is_refused(self, api: Any) -> None:
        assert (await api.refused("/api/v1/nodes", **{"continue": "!!"}))["code"] == 400

    async def test_a_future_version_is_not_available_yet(self, api: Any) -> None:
        status = await api.refused("/api/v1/nodes", resourceVersion="999999999")
        assert (status["code"], status["reason"]) == (504, "Timeout")

    async def test_version_zero_ignores_the_limit(self, api: Any) -> None:
        assert len((await api.get("/api/v1/nodes", resourceVersion="0", limit="1"))["items"]) == 6


class TestWatch:
    async def test_it_continues_from_a_list(self, api: Any) -> None:
        version = (await api.get(PODS))["metadata"]["resourceVersion"]
        async with api.watch(PODS, resourceVersion=version, **GPU_PODS) as following:
            api.cluster.replace_pod("gpu-0000")
            events = [await following() for _ in range(3)]
        assert [event["type"] for event in events] == ["DELETED", "ADDED", "MODIFIED"]
        assert [event["object"]["status"]["phase"] for event in events[1:]] == ["Pending", "Running"]
        versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
        assert versions == sorted(versions)
        assert versions[0] > int(version)

    async def test_it_starts_with_the_events_missed(self, api: Any) -> None:
        version = (await api.get("/api/v1/nodes"))["metadata"]["resourceVersion"]
        api.cluster.delete_node("gpu-0000")
        async with api.watch("/api/v1/nodes", resourceVersion=version) as following:
            event = await following()
        assert (event["type"], event["object"]["metadata"]["name"]) == ("DELETED", "gpu-0000")

    async def test_without_a_version_it_starts_with_existing_objects(self, api: Any) -> None:
        async with api.watch("/api/v1/nodes") as following:
            assert [(await following())["type"] for _ in range(6)] == ["ADDED"] * 6

    async def test_initial_events_end_with_a_marked_bookmark(self, api: Any) -> None:
        query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
        async with api.watch(PODS, **query, **GPU_PODS) as following:
            events = [await following() for _ in range(5)]
        assert [event["type"] for event in events] == ["ADDED"] * 4 + ["BOOKMARK"]
        assert events[4]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert events[4]["object"]["kind"] == "Pod"

    async def test_initial_events_need_their_match(self, api: Any) -> None:
        status = await api.refused("/api/v1/nodes", watch="true", sendInitialEvents="true")
        assert (status["code"], status["reason"]) == (422, "Invalid")

    async def test_bookmarks_carry_the_current_version(self, api: Any) -> None:
        version = (await api.get(PODS))["metadata"]["resourceVersion"]
        async with api.watch(PODS, resourceVersion=version, allowWatchBookmarks="true", **GPU_PODS) as following:
            api.cluster.server.storage.put(NODES, {"metadata": {"name": "other"}})
            event = await following()
        assert event["type"] == "BOOKMARK"
        assert int(event["object"]["metadata"]["resourceVersion"]) == int(version) + 1

    async def test_it_ends_at_the_timeout_with_a_bookmark(self, api: Any) -> None:
        version = (await api.get(PODS))["metadata"]["resourceVersion"]
        query = {"resourceVersion": version, "timeoutSeconds": "1", "allowWatchBookmarks": "true"}
        async with api.watch(PODS, **query) as following:
            kinds = []
            while (event := await following()) is not None:
                kinds.append(event["type"])
        assert set(kinds) == {"BOOKMARK"}

    async def test_an_object_leaving_the_selection_is_deleted(self, api: Any) -> None:
        version = (await api.get("/api/v1/nodes"))["metadata"]["resourceVersion"]
        query = {"resourceVersion": version, "labelSelector": "pool=a"}
        headers = {"Content-Type": "application/merge-patch+json"}
        async with api.watch("/api/v1/nodes", **query) as following:
            for pool in ("a", "b"):
                patch = {"metadata": {"labels": {"pool": pool}}}
                await api.ask("PATCH", "/api/v1/nodes/gpu-0000", json=patch, headers=headers)
            events = [await following() for _ in range(2)]
        assert [event["type"] for event in events] == ["ADDED", "DELETED"]
        assert events[1]["object"]["metadata"]["labels"]["pool"] == "a"

    async def test_tables_are_watched_too(self, api: Any) -> None:
        version = (await api.get("/api/v1/nodes"))["metadata"]["resourceVersion"]
        accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        query = {"watch": "true", "resourceVersion": version}
        async with api.session.get("/api/v1/nodes", params=query, headers=accept) as response:
            api.cluster.delete_node("gpu-0000")
            line = await response.content.readline()
        assert b'"type":"DELETED","object":{"kind":"Table"' in line

    async def test_an_expired_version_is_an_error_event(self, api: Any) -> None:
        version = (await api.get(PODS))["metadata"]["resourceVersion"]
        api.cluster.expire_versions()
        async with api.watch(PODS, resourceVersion=version) as following:
            event = await following()
            assert await following() is None
        assert event["type"] == "ERROR"
        assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")

    async def test_an_expired_version_may_be_a_status(self, api: Any) -> None:
        version = (await api.get(PODS))["metadata"]["resourceVersion"]
        api.cluster.expire_versions("status")
        status = await api.refused(PODS, watch="true", resourceVersion=version)
        assert (status["code"], status["reason"]) == (410, "Expired")

    async def test_a_running_watch_may_expire(self, api: Any) -> None:
        version = (await api.get(PODS))["metadata"]["resourceVersion"]
        async with api.watch(PODS, resourceVersion=version) as following:
            api.cluster.expire_versions()
            event = await following()
            assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
            assert await following() is None

    async def test_history_is_bounded(self, api: Any, simulator: Simulator) -> None:
        version = (await api.get("/api/v1/nodes"))["metadata"]["resourceVersion"]
        storage = simulator.clusters["sim-0"].server.storage
        for _ in range(storage.max_history + 1):
            storage.put(NODES, {"metadata": {"name": "busy"}})
        async with api.watch("/api/v1/nodes", resourceVersion=version) as following:
            assert (await following())["object"]["code"] == 410

    async def test_a_client_that_leaves_is_forgotten(self, api: Any) -> None:
        async with api.watch(PODS):
            await eventually(lambda: api.cluster.counters.open_watches == 1)
        await eventually(lambda: api.cluster.counters.open_watches == 0)
        assert api.cluster.counters.requests["watch", "pods"] == 1


async def test_other_clusters_are_other_servers(simulator: Simulator, connect: Any) -> None:
    async with connect("sim-0") as first, connect("sim-1") as second:
        assert names(await first.get("/api/v1/nodes")) == names(await second.get("/api/v1/nodes"))
        one, other = [await api.get("/api/v1/nodes/gpu-0000") for api in (first, second)]
        assert one["metadata"]["uid"] != other["metadata"]["uid"]
        status, _ = await first.ask("GET", "/api/v1/pods", headers={"Authorization": f"Bearer {second.cluster.token}"})
        assert status == 401


async def test_each_cluster_has_its_own_authority(simulator: Simulator) -> None:
    assert len({authority(simulator, name) for name in simulator.clusters}) == len(simulator.clusters) == 3


async def test_certificates_are_checked(simulator: Simulator) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get(simulator.clusters["sim-0"].url)
