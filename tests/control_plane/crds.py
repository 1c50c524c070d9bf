"""The CRDs of the Prometheus operator and the Gateway API, as `build` takes them from their modules."""

import functools
from pathlib import Path

import httpx
import pytest

from tests.control_plane.plane import ControlPlane, binaries
from tests.support.waiting import until

__all__ = ["KINDS", "install_crds"]

PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
KINDS = (  # group, version, kind and name in paths
    ("monitoring.coreos.com", "v1", "ServiceMonitor", "servicemonitors"),
    ("monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"),
    ("monitoring.coreos.com", "v1alpha1", "ScrapeConfig", "scrapeconfigs"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
)


def install_crds(plane: ControlPlane) -> None:
    """Have the API server know them, and wait until it serves them."""
    for group, version, _, plural in KINDS:
        if plane.http.get(f"/apis/{group}/{version}/{plural}").status_code == httpx.codes.NOT_FOUND:
            plane.http.patch(
                f"{PATH}/{plural}.{group}",
                content=_file(f"{group}_{plural}.yaml").read_bytes(),
                params={"fieldManager": "test"},
                headers={"Content-Type": "application/apply-patch+yaml"},
            ).raise_for_status()
    for group, version, _, plural in KINDS:
        until(functools.partial(_status, plane, f"/apis/{group}/{version}/{plural}"), httpx.codes.OK)


def _status(plane: ControlPlane, path: str) -> int:
    return plane.http.get(path).status_code


def _file(name: str) -> Path:
    programs = binaries()
    assert programs is not None
    found = next((programs / "crds").glob(f"*/{name}"), None)
    if found is None:
        pytest.skip(f"no {name} in $KUBEBUILDER_ASSETS or the cache: run tests/control_plane/build")
    return found
