"""The faults that can be injected into a simulated cluster, as seen by a client."""

from typing import Any

import aiohttp
import anyio
import pytest

from collector.collect import nvidia_smi
from collector.simulator import SimulationError, Simulator
from collector.simulator.faults import ExecFaultKind, Misbehaviour

pytestmark = pytest.mark.anyio

PODS = "/api/v1/namespaces/gpu-operator/pods"


async def node(api: Any, name: str) -> Any:
    return await api.get(f"/api/v1/nodes/{name}")


async def pod(api: Any, name: str) -> Any:
    namespace, own = api.cluster.pod(name).split("/")
    return await api.get(f"/api/v1/namespaces/{namespace}/pods/{own}")


async def uuids(api: Any, name: str) -> set[str]:
    return {gpu.uuid for gpu in nvidia_smi.parse((await api.run(name))[0]).gpus if gpu.uuid}


async def to_the_end(following: Any) -> None:
    while await following() is not None:
        pass


async def seen(response: aiohttp.ClientResponse, text: bytes, *, seconds: float) -> bool:
    with anyio.move_on_after(seconds):
        while text not in await response.content.readline():
            pass
        return True
    return False


BUFFERED_BYTES = 32 << 20  # more than connections hold


class TestTheMachines:
    async def test_a_moved_gpu_is_read_on_the_other_node(self, api: Any) -> None:
        boots = [(await node(api, name))["status"]["nodeInfo"]["bootID"] for name in ("gpu-0000", "gpu-0001")]
        done = api.cluster.move_gpu("gpu-0000", "gpu-0001")
        assert set(done.gpus) <= await uuids(api, "gpu-0001")
        assert not set(done.gpus) & await uuids(api, "gpu-0000")
        after = [await node(api, name) for name in ("gpu-0000", "gpu-0001")]
        assert [each["status"]["capacity"]["nvidia.com/gpu"] for each in after] == ["3", "5"]
        assert not {each["status"]["nodeInfo"]["bootID"] for each in after} & set(boots)

    async def test_a_gpu_moves_between_clusters(self, api: Any, connect: Any) -> None:
        done = api.cluster.move_gpu("gpu-0000", "gpu-0003", to_cluster="sim-1")
        async with connect("sim-1") as other:
            assert set(done.gpus) <= await uuids(other, "gpu-0003")

    async def test_a_quiet_move_is_invisible_in_kubernetes(self, api: Any) -> None:
        version = api.cluster.server.storage.version
        done = api.cluster.move_gpu("gpu-0000", "gpu-0001", reboot=False)
        assert api.cluster.server.storage.version == version
        assert set(done.gpus) <= await uuids(api, "gpu-0001")

    async def test_a_swapped_tray_shows_only_new_gpus(self, api: Any) -> None:
        before = await uuids(api, "gpu-0000")
        done = api.cluster.swap_tray("gpu-0000")
        assert await uuids(api, "gpu-0000") == set(done.gpus)
        assert before.isdisjoint(done.gpus)

    async def test_a_reboot_changes_the_boot_id_and_restarts_the_pod(self, api: Any) -> None:
        before, pod_before = await node(api, "gpu-0000"), await pod(api, "gpu-0000")
        version = (await api.get("/api/v1/nodes"))["metadata"]["resourceVersion"]
        api.cluster.reboot_node("gpu-0000")
        after, pod_after = await node(api, "gpu-0000"), await pod(api, "gpu-0000")
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["status"]["nodeInfo"]["bootID"] != before["status"]["nodeInfo"]["bootID"]
        assert pod_after["metadata"]["uid"] == pod_before["metadata"]["uid"]
        assert pod_after["status"]["containerStatuses"][0]["restartCount"] == 1
        async with api.watch("/api/v1/nodes", resourceVersion=version) as following:
            ready = [
                condition["status"]
                for _ in range(2)
                for condition in (await following())["object"]["status"]["conditions"]
                if condition["type"] == "Ready"
            ]
        assert ready == ["False", "True"]

    async def test_a_migrated_node_is_the_same_node_with_other_gpus(self, api: Any) -> None:
        before, gpus = await node(api, "gpu-0000"), await uuids(api, "gpu-0000")
        api.cluster.migrate_node("gpu-0000")
        after = await node(api, "gpu-0000")
        assert after["spec"]["providerID"] == before["spec"]["providerID"]
        assert gpus.isdisjoint(await uuids(api, "gpu-0000"))

    async def test_a_deleted_node_is_gone_with_its_pod(self, api: Any) -> None:
        key = api.cluster.pod("gpu-0000")
        api.cluster.delete_node("gpu-0000")
        assert (await api.refused("/api/v1/nodes/gpu-0000"))["code"] == 404
        assert (await api.refused(f"/api/v1/namespaces/{key.replace('/', '/pods/')}"))["code"] == 404

    async def test_a_recreated_node_is_another_vm(self, api: Any) -> None:
        before, key = await node(api, "gpu-0000"), api.cluster.pod("gpu-0000")
        api.cluster.delete_node("gpu-0000")
        assert api.cluster.add_node().nodes == ("gpu-0000",)
        after = await node(api, "gpu-0000")
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["spec"]["providerID"] != before["spec"]["providerID"]
        assert api.cluster.pod("gpu-0000") != key
        assert len(await uuids(api, "gpu-0000")) == 4

    async def test_a_lost_gpu_lowers_only_allocatable(self, api: Any) -> None:
        [lost] = api.cluster.lose_gpu("gpu-0000").gpus
        status = (await node(api, "gpu-0000"))["status"]
        assert (status["capacity"]["nvidia.com/gpu"], status["allocatable"]["nvidia.com/gpu"]) == ("4", "3")
        assert lost not in await uuids(api, "gpu-0000")
        api.cluster.reboot_node("gpu-0000")
        assert lost in await uuids(api, "gpu-0000")

    async def test_shared_gpus_are_counted_once_for_each_share(self, api: Any) -> None:
        api.cluster.share_gpus("gpu-0000", replicas=3)
        api.cluster.lose_gpu("gpu-0000")
        after = await node(api, "gpu-0000")
        status, labels = after["status"], after["metadata"]["labels"]
        assert (status["capacity"]["nvidia.com/gpu"], status["allocatable"]["nvidia.com/gpu"]) == ("12", "9")
        assert (labels["nvidia.com/gpu.replicas"], labels["nvidia.com/gpu.sharing-strategy"]) == ("3", "time-slicing")
        with pytest.raises(SimulationError, match=r"^sim-0: replicas must be at least 1, got 0$"):
            api.cluster.share_gpus("gpu-0000", replicas=0)

    async def test_mig_instances_are_counted_in_place_of_gpus(self, api: Any) -> None:
        for enabled, amount, slices in ((True, "28", "1"), (False, "4", None)):
            api.cluster.set_mig("gpu-0000", enabled=enabled)
            after = await node(api, "gpu-0000")
            assert after["status"]["capacity"]["nvidia.com/gpu"] == amount
            assert after["metadata"]["labels"].get("nvidia.com/gpu.slices.gi") == slices

    async def test_mig_and_hidden_serials_restart_the_container(self, api: Any) -> None:
        api.cluster.set_mig("gpu-0000")
        api.cluster.hide_serials("gpu-0000")
        assert (await pod(api, "gpu-0000"))["status"]["containerStatuses"][0]["restartCount"] == 2

    async def test_a_choice_follows_from_the_seed(self) -> None:
        async with Simulator(clusters=1, nodes=50, gpus=1) as one, Simulator(clusters=1, nodes=50, gpus=1) as other:
            picked = [[each.clusters["sim-0"].reboot_node().nodes for _ in range(5)] for each in (one, other)]
        assert picked[0] == picked[1]

    async def test_an_impossible_action_is_refused_in_one_line(self, api: Any) -> None:
        with pytest.raises(SimulationError, match=r"^sim-0: no GPU node cpu-0000; there are "):
            api.cluster.reboot_node("cpu-0000")
        with pytest.raises(SimulationError, match=r"^no cluster sim-7; there are sim-0, sim-1, sim-2$"):
            api.cluster.move_gpu(to_cluster="sim-7")


class TestThePods:
    async def test_a_replaced_pod_is_another_one(self, api: Any) -> None:
        before = await pod(api, "gpu-0000")
        api.cluster.replace_pod("gpu-0000")
        after = await pod(api, "gpu-0000")
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after["metadata"]["name"] != before["metadata"]["name"]

    async def test_a_restarted_container_has_another_id(self, api: Any) -> None:
        before = await pod(api, "gpu-0000")
        version = (await api.get(PODS))["metadata"]["resourceVersion"]
        api.cluster.restart_container("gpu-0000")
        async with api.watch(PODS, resourceVersion=version) as following:
            down, up = [(await following())["object"]["status"]["containerStatuses"][0] for _ in range(2)]
        assert (down["ready"], up["ready"], up["restartCount"]) == (False, True, 1)
        assert up["containerID"] != before["status"]["containerStatuses"][0]["containerID"]
        assert (await pod(api, "gpu-0000"))["status"]["podIP"] == before["status"]["podIP"]

    async def test_a_restarted_pod_has_another_address(self, api: Any) -> None:
        before = await pod(api, "gpu-0000")
        api.cluster.restart_pod("gpu-0000")
        after = await pod(api, "gpu-0000")
        assert after["metadata"]["uid"] == before["metadata"]["uid"]
        assert after["status"]["podIP"] != before["status"]["podIP"]

    async def test_a_pod_can_be_not_ready(self, api: Any) -> None:
        api.cluster.set_ready("gpu-0000", False)
        assert (await pod(api, "gpu-0000"))["status"]["containerStatuses"][0]["ready"] is False


class TestTheServer:
    async def test_tokens_are_refused_and_accepted_again(self, api: Any) -> None:
        api.cluster.refuse_tokens()
        assert (await api.refused("/api/v1/pods"))["code"] == 401
        api.cluster.accept_tokens()
        await api.get("/api/v1/pods")

    async def test_a_rotated_token_is_in_the_kubeconfig(self, api: Any, simulator: Simulator) -> None:
        before = api.cluster.token
        api.cluster.rotate_token()
        assert (await api.refused("/api/v1/pods"))["code"] == 401
        text = simulator.kubeconfig.read_text()
        assert api.cluster.token in text
        assert before not in text

    async def test_throttling_has_a_retry_after(self, api: Any) -> None:
        api.cluster.throttle(1, retry_after=7)
        async with api.session.get("/api/v1/pods") as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        await api.get("/api/v1/pods")
        api.cluster.throttle()
        for _ in range(3):
            assert (await api.refused("/api/v1/pods"))["reason"] == "TooManyRequests"
        api.cluster.unthrottle()
        await api.get("/api/v1/pods")

    async def test_dropped_connections_are_closed(self, api: Any) -> None:
        async with api.watch(PODS) as following:
            await following()
            api.cluster.drop_connections()
            with pytest.raises(aiohttp.ClientError):
                await to_the_end(following)
        await api.get("/api/v1/pods")

    async def test_a_frozen_connection_is_silent_and_open(self, api: Any, connect: Any) -> None:
        version = (await api.get(PODS))["metadata"]["resourceVersion"]
        query = {"resourceVersion": version, "allowWatchBookmarks": "true", "watch": "true"}
        async with api.session.get(PODS, params=query) as response:
            await response.content.readline()
            api.cluster.freeze_connections()
            api.cluster.replace_pod("gpu-0000")
            assert not await seen(response, b"DELETED", seconds=0.3)
            async with connect("sim-0") as other:
                await other.get("/api/v1/pods")
            api.cluster.thaw()
            assert await seen(response, b"DELETED", seconds=30)

    async def test_new_connections_can_be_frozen_too(self, api: Any) -> None:
        api.cluster.freeze_connections(new=True)
        with pytest.raises(TimeoutError), anyio.fail_after(0.2):
            await api.get("/api/v1/pods")
        api.cluster.thaw()
        await api.get("/api/v1/pods")

    async def test_a_frozen_exec_answers_no_pings(self, api: Any) -> None:
        api.cluster.hang_exec()
        async with api.session.ws_connect(
            api.exec_path("gpu-0000"),
            protocols=("v5.channel.k8s.io",),
            autoping=False,
            timeout=aiohttp.ClientWSTimeout(ws_close=0.1),
        ) as socket:
            await socket.receive_bytes()
            api.cluster.freeze_connections()
            await socket.ping()
            with pytest.raises(TimeoutError):
                await socket.receive(timeout=0.2)

    async def test_a_stopped_server_comes_back_on_its_port(self, api: Any) -> None:
        url = api.cluster.url
        await api.cluster.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await api.get("/api/v1/pods")
        await api.cluster.start()
        assert api.cluster.url == url
        await api.get("/api/v1/pods")


class TestMisbehaviour:
    @pytest.mark.parametrize(
        ("how", "status"),
        [("server_error", 500), ("unavailable", 503), ("garbage", 200), ("empty", 200), ("redirect", 302)],
    )
    async def test_the_next_request_alone_gets_an_odd_answer(self, api: Any, how: str, status: int) -> None:
        api.cluster.misbehave(Misbehaviour(how), requests=1)
        async with api.session.get("/api/v1/nodes", allow_redirects=False) as response:
            assert response.status == status
            body = await response.read()
        assert (b'"reason":"InternalError"' in body) is (how == "server_error")
        assert len((await api.get("/api/v1/nodes"))["items"]) == 6

    async def test_a_server_that_speaks_no_http(self, api: Any) -> None:
        api.cluster.misbehave(Misbehaviour.NO_HTTP)
        with pytest.raises(aiohttp.ClientError):
            await api.get("/api/v1/nodes")
        api.cluster.behave()
        assert await api.get("/api/v1/nodes")

    async def test_a_list_is_torn(self, api: Any) -> None:
        api.cluster.misbehave(Misbehaviour.TORN)
        with pytest.raises(aiohttp.ClientPayloadError):
            await api.get("/api/v1/nodes")

    async def test_watches_are_short(self, api: Any) -> None:
        api.cluster.misbehave(Misbehaviour.SHORT_WATCHES)
        version = (await api.get("/api/v1/nodes"))["metadata"]["resourceVersion"]
        async with api.watch("/api/v1/nodes", resourceVersion=version) as following:
            assert await following() is None

    async def test_watches_flood_until_the_server_behaves(self, api: Any) -> None:
        version = (await api.get("/api/v1/nodes"))["metadata"]["resourceVersion"]
        api.cluster.misbehave(Misbehaviour.BOOKMARK_FLOOD)
        async with api.watch(
            "/api/v1/nodes", resourceVersion=version, allowWatchBookmarks="true", timeoutSeconds="1"
        ) as following:
            for _ in range(5000):
                assert (await following())["type"] == "BOOKMARK"
            api.cluster.behave()
            await to_the_end(following)

    async def test_a_flood_of_bookmarks_promises_no_event_that_is_still_to_come(self, api: Any) -> None:
        api.cluster.misbehave(Misbehaviour.BOOKMARK_FLOOD)
        query = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "1"}
        async with api.session.get("/api/v1/nodes", params=query | {"resourceVersion": "0"}) as response:
            while b"BOOKMARK" not in await response.content.readuntil(b"\n"):
                pass
            promised = await response.content.readuntil(b"\n")
            api.cluster.add_node("gpu-0009")
            received = 0
            while received < BUFFERED_BYTES:
                lines = await response.content.readany()
                received += len(lines)
                assert set(lines.splitlines(keepends=True)[1:-1]) <= {promised}

    async def test_a_flood_of_output_ends_with_the_client(self, api: Any) -> None:
        api.cluster.fail_exec(ExecFaultKind.FLOOD)
        async with api.socket("gpu-0000") as socket:
            for _ in range(100):
                await socket.receive_bytes()
        api.cluster.heal_exec()
        assert await uuids(api, "gpu-0000")

    async def test_messages_without_content(self, api: Any) -> None:
        api.cluster.fail_exec(ExecFaultKind.EMPTY_FRAMES)
        async with api.socket("gpu-0000") as socket:
            assert {await socket.receive_bytes() for _ in range(100)} == {b"\1"}

    async def test_a_restored_backup_has_versions_of_the_past(self, api: Any) -> None:
        before = (await api.get("/api/v1/nodes"))["metadata"]["resourceVersion"]
        api.cluster.restore_backup(10)
        nodes = await api.get("/api/v1/nodes")
        assert int(nodes["metadata"]["resourceVersion"]) == int(before) - 10
        assert {int(one["metadata"]["resourceVersion"]) <= int(before) - 10 for one in nodes["items"]} == {True}
        assert (await api.refused("/api/v1/nodes", watch="true", resourceVersion=before))["code"] == 504

    async def test_no_backup_is_older_than_the_cluster(self, api: Any) -> None:
        with pytest.raises(SimulationError, match="between 1 and"):
            api.cluster.restore_backup(1 << 20)

    async def test_a_new_authority_has_to_be_published(self, api: Any, simulator: Simulator, connect: Any) -> None:
        api.cluster.change_authority(publish=False)
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await api.get("/api/v1/nodes")
        api.cluster.publish_authority()
        async with connect("sim-0") as trusting:
            assert await trusting.get("/api/v1/nodes")
