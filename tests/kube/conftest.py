"""Real servers on the loopback interface, and the rule that no log ever contains a secret."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.files import in_time
from collector.kube import connector, credential_plugin, credentials, tls, token_file
from collector.kube import kubeconfig as kubeconfig_module
from collector.kube.connection import AuthProvider, ClusterEntry, ConnectionInfo, User
from collector.kube.oidc import GRANT_TIMEOUT_SECONDS, Oidc
from collector.redaction import Secrets
from tests.support.kubernetes import (
    authority,
    clock,
    failure,
    issuer,
    kubeconfig,
    named_server,
    nothing_says_a_secret,
    other_authority,
    plain_server,
    plugin,
    proxy,
    server,
    socks_proxy,
    tls_proxy,
)

__all__ = [
    "authority",
    "clock",
    "failure",
    "issuer",
    "kubeconfig",
    "named_server",
    "nothing_says_a_secret",
    "other_authority",
    "plain_server",
    "plugin",
    "proxy",
    "server",
    "socks_proxy",
    "tls_proxy",
]


@pytest.fixture
def make_oidc(issuer: Any, other_authority: Any, clock: Any) -> Callable[..., Oidc]:
    """Give what makes an Oidc at the issuer, with other settings where wanted; None takes one away."""

    def made(
        *, grant_timeout: float = GRANT_TIMEOUT_SECONDS, secrets: Secrets | None = None, **settings: str | None
    ) -> Oidc:
        config = {
            "idp-issuer-url": issuer.url,
            "client-id": "kubernetes",
            "client-secret": "s3cr3t-client",
            "refresh-token": issuer.refresh_token,
            "idp-certificate-authority-data": other_authority.data,
        } | {key.replace("_", "-"): value for key, value in settings.items()}
        kept = {key: value for key, value in config.items() if value is not None}
        provider = AuthProvider(name="oidc", config=kept)
        info = ConnectionInfo(where="x", cluster=ClusterEntry(), user=User(auth_provider=provider))
        return Oidc(info, clock=clock, grant_timeout=grant_timeout, secrets=secrets)

    return made


@pytest.fixture(autouse=True)
def files_are_not_waited_for_by_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail what looks at a file on the event loop: one that hangs would stop the whole process."""

    def in_a_thread(file: Path | str, work: Callable[[], Any]) -> Any:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return in_time(file, work)

    for module in (connector, credential_plugin, credentials, kubeconfig_module, tls, token_file):
        monkeypatch.setattr(module, "in_time", in_a_thread)
