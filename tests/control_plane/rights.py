"""What tests of `gpuid grant` on a real API server do with it, and what a thief of its tokens tries."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import yaml
from click.testing import Result

from tests.control_plane.plane import CONTAINER, NAMESPACE, ControlPlane
from tests.support.waiting import until

SMI = ["nvidia-smi", "-q", "-x"]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
POLICIES = "/apis/admissionregistration.k8s.io/v1"
UPGRADE = 400  # what an exec is answered that would have been run, had it come over a WebSocket

Grant = Callable[..., Result]


def remove_rights(plane: ControlPlane) -> None:
    """Delete all that is labelled as ours, and finish the namespace, for which nothing else is there."""
    selector = {"labelSelector": "app.kubernetes.io/managed-by=gpuid"}
    for path in (f"{RBAC}/roles", f"{RBAC}/rolebindings", f"{RBAC}/clusterroles", f"{RBAC}/clusterrolebindings"):
        for one in plane.http.get(path, params=selector).json()["items"]:
            place = f"namespaces/{one['metadata']['namespace']}/" if "namespace" in one["metadata"] else ""
            plane.http.delete(f"{RBAC}/{place}{path.rpartition('/')[2]}/{one['metadata']['name']}")
    for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        plane.http.delete(f"{POLICIES}/{kind}", params=selector)
    finish_namespace(plane)


def finish_namespace(plane: ControlPlane) -> None:
    """Do what the namespace controller would, which does not run here."""
    path = "/api/v1/namespaces/gpuid"
    plane.http.delete(f"{path}/serviceaccounts", params={"fieldSelector": "metadata.name=gpuid"})
    if plane.http.delete(path).status_code != 404:
        namespace = plane.http.get(path).json()
        plane.http.put(f"{path}/finalize", json=namespace | {"spec": {"finalizers": []}})
        until(lambda: plane.http.get(path).status_code, 404)


def run(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
    """Run an async function in a loop of its own, which then closes what is to be closed in its next turns."""

    async def whole() -> Any:
        try:
            return await function(*arguments)
        finally:
            for _ in range(10):
                await anyio.lowlevel.checkpoint()

    return anyio.run(whole)


def as_collector(plane: ControlPlane, kubeconfig: Path) -> httpx.Client:
    """A client with the collector's token, as a thief would use it."""
    user = yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]
    token = (kubeconfig.parent / user["tokenFile"]).read_text()
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=plane.http.base_url, headers=headers, verify=False, timeout=30)


def exec_status(
    client: httpx.Client,
    command: Sequence[str],
    *,
    namespace: str = NAMESPACE,
    pod: str = "gpu-1-a",
    container: str = CONTAINER,
    method: str = "GET",
    **params: str,
) -> int:
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
    query: dict[str, Any] = {"command": list(command), "container": container, "stdout": "true", "stderr": "true"}
    return client.request(method, path, params=query | params).status_code
