"""Which admission policies an API server has."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from collector.grant.objects import Objects
from collector.kube.errors import NotFoundError


class Server:
    """Stands for the ApiClient of a server, by what it has in each version of the group."""

    configuration = None

    def __init__(self, resources: Mapping[str, list[str]]) -> None:
        self._resources = resources

    async def read(self, _method: Any, group: str, version: str) -> bytes:
        assert group == "admissionregistration.k8s.io"
        if version not in self._resources:
            raise NotFoundError("not found", status=404)
        return msgspec.json.encode({"resources": [{"name": name} for name in self._resources[version]]})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("resources", "version"),
    [
        ({"v1": ["validatingwebhookconfigurations", "validatingadmissionpolicies"]}, "v1"),
        ({"v1": ["validatingwebhookconfigurations"], "v1beta1": ["validatingadmissionpolicies"]}, "v1beta1"),
        ({"v1": ["validatingwebhookconfigurations"]}, None),
        ({}, None),
    ],
)
async def test_the_newest_version_counts(resources: Mapping[str, list[str]], version: str | None) -> None:
    client: Any = Server(resources)
    assert await Objects(client).policy_version() == version
