"""Chooses the authentication method of a kubeconfig user."""

from collections.abc import Callable
from pathlib import Path

from collector.kube.connection import ConnectionInfo
from collector.kube.credential_plugin import PLUGIN_TIMEOUT_SECONDS, CredentialPlugin
from collector.kube.credentials import (
    Credential,
    Credentials,
    FileCredentials,
    RefreshingCredentials,
    StaticCredentials,
    basic,
    bearer,
    jwt_validity,
)
from collector.kube.errors import BadContextError
from collector.kube.oidc import Oidc
from collector.kube.secrets import redacted
from collector.kube.token_credentials import TokenCredentials
from collector.redaction import Secrets
from collector.text import one_line

__all__ = ["choose"]

# auth-providers removed from Kubernetes, and the exec plugins that replace them
_SUCCESSORS = {"gcp": "gke-gcloud-auth-plugin", "azure": "kubelogin"}


def choose(
    info: ConnectionInfo,
    clock: Callable[[], float],
    secrets: Secrets,
    plugin_timeout: float = PLUGIN_TIMEOUT_SECONDS,
    before: Credentials | None = None,
) -> Credentials:
    """Return the credentials of the user, in kubectl's order of preference; raises BadContextError.

    Whatever they obtain is added to `secrets` and redacted from their errors. A credential plugin may take
    `plugin_timeout` seconds. `before` are the previous credentials for the same server, which these replace.
    """
    user, where = info.user, info.where
    if user.token and (user.username or user.password):
        raise BadContextError(f"{_key(info, 'token')}: expected either a token or username and password")
    if user.exec is not None and user.auth_provider is not None:
        raise BadContextError(f"{_key(info, 'exec')}: expected either exec or auth-provider")
    if user.token_file or user.token:
        return _token(info, clock, before)
    if user.username or user.password:
        try:
            return StaticCredentials(basic(user.username, user.password))
        except UnicodeEncodeError:
            raise BadContextError(f"{where}: username and password: expected text") from None
    if user.exec is not None:
        plugin = CredentialPlugin(info, clock=clock, timeout=plugin_timeout)
        obtain = redacted(plugin.run, secrets)
        return RefreshingCredentials(obtain, where=where, clock=clock, on_reset=plugin.reset)
    if user.auth_provider is not None:
        if user.auth_provider.name == "oidc":
            login = Oidc(info, clock=clock, secrets=secrets)
            obtain = redacted(login.run, secrets)
            return RefreshingCredentials(obtain, where=where, clock=clock, on_reset=login.reset)
        name = one_line(user.auth_provider.name, 40)
        successor = _SUCCESSORS.get(name)
        hint = f"; use the exec plugin {successor} instead" if successor else ""
        raise BadContextError(f'{where}: auth-provider "{name}" is not supported{hint}')
    return StaticCredentials(Credential())


def _token(info: ConnectionInfo, clock: Callable[[], float], before: Credentials | None) -> Credentials:
    user, where = info.user, _key(info, "token")
    renewed = before if isinstance(before, TokenCredentials) else None
    if not user.token_file:
        token = StaticCredentials(bearer(user.token, where, lapse=jwt_validity(user.token)))
        return TokenCredentials(token, None, clock=clock, before=renewed)
    file = Path(user.token_file)
    tokens = FileCredentials(file, where=info.where, fallback=user.token, fallback_where=where, clock=clock)
    if not info.files:
        return tokens  # of our own pod; the kubelet renews it
    return TokenCredentials(tokens, file, clock=clock, before=renewed)


def _key(info: ConnectionInfo, key: str) -> str:
    return f'{info.where}: user "{one_line(info.user_name, 100)}": {key}'
