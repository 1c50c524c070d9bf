"""Resources of the Prometheus operator and of the Gateway API, with as much of a schema as it takes to store them."""

from tests.control_plane.plane import ControlPlane
from tests.support.waiting import until

__all__ = ["KINDS", "install_crds"]

PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KINDS = (
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    ("monitoring.coreos.com", "v1alpha1", "ScrapeConfig", "scrapeconfigs"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
)
# Groups below k8s.io need it.
APPROVED = {"api-approved.kubernetes.io": "unapproved, for tests"}


def install_crds(plane: ControlPlane) -> None:
    """Have the API server know them, and wait until it serves them."""
    for group, version, kind, plural in KINDS:
        name = f"{plural}.{group}"
        schema = {
            "type": "object",
            "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
        }
        crd = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": name, "annotations": APPROVED if group.endswith(".k8s.io") else {}},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
                "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
            },
        }
        plane.apply(crd, f"{PATH}/{name}")
        until(lambda: plane.http.get(f"/apis/{group}/{version}/{plural}").status_code, 200)  # noqa: B023
