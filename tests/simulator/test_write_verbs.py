"""What changes the cluster: patches of nodes, leases, and the reviews of one's rights."""

from typing import Any

import pytest

pytestmark = pytest.mark.anyio

LEASES = "/apis/coordination.k8s.io/v1/namespaces/gpuid/leases"
MERGE = {"Content-Type": "application/merge-patch+json"}


def lease(holder: str, **metadata: str) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "shard-0"} | metadata,
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15},
    }


class TestNodes:
    @pytest.mark.parametrize("kind", ["strategic-merge-patch", "merge-patch"])
    async def test_labels_are_patched(self, api: Any, kind: str) -> None:
        status, node = await api.ask(
            "PATCH",
            "/api/v1/nodes/gpu-0000",
            json={"metadata": {"labels": {"gpuid.example/chassis": "1"}}},
            headers={"Content-Type": f"application/{kind}+json"},
        )
        assert status == 200
        assert node["metadata"]["labels"]["gpuid.example/chassis"] == "1"
        assert (await api.get("/api/v1/nodes/gpu-0000")) == node

    async def test_a_null_removes_a_label_and_managers_are_kept(self, api: Any) -> None:
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        path = "/api/v1/nodes/gpu-0000?fieldManager="
        for manager, value in (("one", "1"), ("two", None), ("one", None)):
            patch = {"metadata": {"labels": {"gpuid.example/chassis": value}}}
            status, node = await api.ask("PATCH", path + manager, json=patch, headers=headers)
            assert status == 200
            assert node["metadata"]["labels"].get("gpuid.example/chassis") == value
        # The last one changed nothing.
        assert [one["manager"] for one in node["metadata"]["managedFields"]] == ["one", "two"]

    async def test_a_json_patch_works_too(self, api: Any) -> None:
        status, node = await api.ask(
            "PATCH",
            "/api/v1/nodes/gpu-0000",
            json=[{"op": "add", "path": "/metadata/labels/a", "value": "b"}],
            headers={"Content-Type": "application/json-patch+json"},
        )
        assert (status, node["metadata"]["labels"]["a"]) == (200, "b")

    async def test_a_patch_that_changes_nothing_makes_no_new_version(self, api: Any) -> None:
        before = await api.get("/api/v1/nodes/gpu-0000")
        _, after = await api.ask("PATCH", "/api/v1/nodes/gpu-0000", json={"metadata": {"labels": {}}}, headers=MERGE)
        assert after == before

    async def test_name_and_status_are_unchanged(self, api: Any) -> None:
        patch = {"metadata": {"name": "x"}, "status": {"capacity": None}, "spec": {"unschedulable": True}}
        before = await api.get("/api/v1/nodes/gpu-0000")
        _, after = await api.ask("PATCH", "/api/v1/nodes/gpu-0000", json=patch, headers=MERGE)
        assert after["spec"]["unschedulable"] is True
        assert (after["metadata"]["name"], after["metadata"]["uid"]) == ("gpu-0000", before["metadata"]["uid"])
        assert after["status"] == before["status"]

    async def test_the_status_has_its_own_path(self, api: Any) -> None:
        patch = {"status": {"capacity": {"nvidia.com/gpu": "7"}}}
        _, node = await api.ask("PATCH", "/api/v1/nodes/gpu-0000/status", json=patch, headers=MERGE)
        assert node["status"]["capacity"]["nvidia.com/gpu"] == "7"

    @pytest.mark.parametrize(
        ("body", "media_type", "code"),
        [
            ("{", "application/merge-patch+json", 400),
            ("[]", "application/merge-patch+json", 400),
            ('{"metadata": 1}', "application/merge-patch+json", 400),
            ('{"metadata": {"labels": {"a": 1}}}', "application/merge-patch+json", 400),
            ("{}", "application/apply-patch+yaml", 415),
            ('{"metadata": {"resourceVersion": "1"}}', "application/merge-patch+json", 409),
            ('{"metadata": {"uid": "of another node"}}', "application/merge-patch+json", 422),
            ('{"metadata": {"labels": {"a": "-"}}}', "application/merge-patch+json", 422),
            ('{"metadata": {"labels": {"a": "AAAA"}}}'.replace("A", "a" * 16), "application/merge-patch+json", 422),
            ('{"metadata": {"labels": {"a/b/c": "d"}}}', "application/merge-patch+json", 422),
        ],
    )
    async def test_a_bad_patch_is_a_status(self, api: Any, body: str, media_type: str, code: int) -> None:
        status, answer = await api.ask(
            "PATCH", "/api/v1/nodes/gpu-0000", data=body, headers={"Content-Type": media_type}
        )
        assert (status, answer["kind"], answer["code"]) == (code, "Status", code)

    async def test_other_verbs_are_not_allowed(self, api: Any) -> None:
        status, answer = await api.ask("DELETE", "/api/v1/nodes/gpu-0000")
        assert (status, answer["reason"]) == (405, "MethodNotAllowed")


class TestLeases:
    async def test_a_lease_is_created_read_and_listed(self, api: Any) -> None:
        status, created = await api.ask("POST", LEASES, json=lease("a"))
        assert status == 201
        assert created["metadata"]["namespace"] == "gpuid"
        assert await api.get(f"{LEASES}/shard-0") == created
        assert len((await api.get(LEASES))["items"]) == 1

    async def test_a_second_lease_with_the_name_is_a_conflict(self, api: Any) -> None:
        await api.ask("POST", LEASES, json=lease("a"))
        status, answer = await api.ask("POST", LEASES, json=lease("b"))
        assert (status, answer["reason"]) == (409, "AlreadyExists")
        assert answer["message"] == 'leases.coordination.k8s.io "shard-0" already exists'

    async def test_only_the_latest_version_can_be_updated(self, api: Any) -> None:
        _, created = await api.ask("POST", LEASES, json=lease("a"))
        version = created["metadata"]["resourceVersion"]
        status, updated = await api.ask("PUT", f"{LEASES}/shard-0", json=lease("b", resourceVersion=version))
        assert (status, updated["spec"]["holderIdentity"]) == (200, "b")
        status, answer = await api.ask("PUT", f"{LEASES}/shard-0", json=lease("c", resourceVersion=version))
        assert (status, answer["reason"]) == (409, "Conflict")
        assert "the object has been modified" in answer["message"]

    async def test_a_lease_is_watched_patched_and_deleted(self, api: Any) -> None:
        _, created = await api.ask("POST", LEASES, json=lease("a"))
        async with api.watch(LEASES, resourceVersion=created["metadata"]["resourceVersion"]) as following:
            await api.ask("PATCH", f"{LEASES}/shard-0", json={"spec": {"holderIdentity": None}}, headers=MERGE)
            await api.ask("DELETE", f"{LEASES}/shard-0")
            events = [await following() for _ in range(2)]
        assert [event["type"] for event in events] == ["MODIFIED", "DELETED"]
        assert (await api.refused(f"{LEASES}/shard-0"))["message"] == ('leases.coordination.k8s.io "shard-0" not found')

    async def test_a_lease_without_a_name_is_refused(self, api: Any) -> None:
        status, answer = await api.ask("POST", LEASES, json={"metadata": {}})
        assert (status, answer["reason"]) == (422, "Invalid")


class TestReviews:
    @staticmethod
    async def may(api: Any, verb: str, resource: str, subresource: str = "") -> bool:
        attributes = {"verb": verb, "resource": resource, "subresource": subresource}
        status, body = await api.ask(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            json={"spec": {"resourceAttributes": attributes}},
        )
        assert status == 201
        return bool(body["status"]["allowed"])

    async def test_everything_is_allowed_at_first(self, api: Any) -> None:
        assert await self.may(api, "list", "pods")
        assert await self.may(api, "create", "pods", "exec")

    async def test_a_denied_request_is_reviewed_as_denied_and_refused(self, api: Any) -> None:
        api.cluster.deny("list", "pods")
        assert not await self.may(api, "list", "pods")
        assert await self.may(api, "watch", "pods")
        status = await api.refused("/api/v1/namespaces/gpu-operator/pods")
        assert (status["code"], status["reason"]) == (403, "Forbidden")
        assert status["message"] == (
            'pods is forbidden: User "simulated-user" cannot list resource "pods" in API group "" '
            'in the namespace "gpu-operator"'
        )
        api.cluster.allow()
        assert await self.may(api, "list", "pods")

    async def test_a_right_can_be_denied_in_one_namespace_or_across_all(self, api: Any) -> None:
        for namespace, refused in (("", "/api/v1/pods"), ("gpu-operator", "/api/v1/namespaces/gpu-operator/pods")):
            api.cluster.deny("list", "pods", namespace)
            assert (await api.refused(refused))["code"] == 403
            await api.get("/api/v1/namespaces/kube-system/pods")
        denied = api.cluster.server.faults.describe()["denied"]
        assert denied == ["list pods in all namespaces", "list pods in gpu-operator"]

    async def test_a_self_subject_review_names_the_user(self, api: Any) -> None:
        _, body = await api.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", json={})
        assert body["status"]["userInfo"]["username"] == "simulated-user"
