"""The secret parts of a connection, which a server, a proxy or a credential plugin may repeat, and gpuid must not."""

import base64
import functools
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from yarl import URL

from collector.kube.connection import ConnectionInfo, Exec
from collector.kube.credentials import Credential
from collector.redaction import Secrets, redacting

__all__ = ["add_connection", "add_credential", "redacted", "redacts_errors"]

# Names of secrets among the environment variables and arguments of a credential plugin.
_SECRET_NAME = re.compile(
    r"token|secret|passw|passphrase|passcode|pwd|jwt|credential|private|api[-_]?key|access[-_]?key|auth(?!ority|entic)|bearer|cookie"
    r"|(?:^|[-_.])(?:pass|pw|pin|otp|psk|pat|key|sig|signature)(?:$|[-_.])",
    re.IGNORECASE,
)
_PUBLIC_NAME = re.compile(r"(?:file|path|dir|name|id|url|uri|type|ttl|region)$", re.IGNORECASE)  # of what is not secret
_PUBLIC_VALUE = re.compile(r"(?:/|~/|\./)[^\s:]*|https?://[^\s@?#]*")
_SECRET_OPTION = re.compile(r"(--?[\w-]+)(?:=(.+))?", re.DOTALL)


class _Settings(Protocol):
    """The secret part of a connection's settings, as in collector.kube.transport.ConnectionSettings."""

    client_certificate: Any  # a tls.Certificate, or None
    authorization: str  # of the login in the server's URL
    proxy: URL | None


def add_connection(secrets: Secrets, info: ConnectionInfo, settings: _Settings) -> None:
    """Add the secrets of a kubeconfig's user and of the proxy on the way."""
    user, certificate, proxy = info.user, settings.client_certificate, settings.proxy
    secrets.add(certificate.key if certificate is not None else None, user.token, user.password)
    secrets.add(settings.authorization)
    if user.auth_provider is not None:
        config = user.auth_provider.config or {}
        secrets.add(*(value for name, value in config.items() if _is_secret(name)))
    secrets.add(*_plugin_secrets(user.exec))
    if proxy is not None and proxy.password:
        login = f"{proxy.user or ''}:{proxy.password}".encode()
        secrets.add(proxy.password, proxy.raw_password, f"Basic {base64.b64encode(login).decode()}")


def add_credential(secrets: Secrets, credential: Credential) -> None:
    """Add the credential of a request."""
    secrets.add_renewed(credential.certificate.key if credential.certificate else None, credential.authorization)


def redacted(obtain: Callable[[], Awaitable[Credential]], secrets: Secrets) -> Callable[[], Awaitable[Credential]]:
    """Wrap `obtain`: its results are added to the secrets, and its errors redacted."""

    async def run() -> Credential:
        with redacting(secrets):
            credential = await obtain()
        add_credential(secrets, credential)
        return credential

    return run


class _HasSession(Protocol):
    @property
    def session(self) -> "_HasSecrets": ...


class _HasSecrets(Protocol):
    secrets: Secrets


_Client = TypeVar("_Client", bound=_HasSession)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def redacts_errors(
    call: Callable[Concatenate[_Client, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_Client, _P], Coroutine[Any, Any, _T]]:
    """Redact a session's secrets in every error of a function whose first argument is that session's client."""

    @functools.wraps(call)
    async def run(client: _Client, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with redacting(client.session.secrets):
            return await call(client, *args, **kwargs)

    return run


def _plugin_secrets(plugin: Exec | None) -> Iterator[str]:
    """Yield the secrets in the environment and the arguments of a credential plugin, judged by their names.

    A path or a server address is never a secret, whatever its name: errors must be able to name it.
    """
    return (value for value in _named_secrets(plugin) if not _PUBLIC_VALUE.fullmatch(value))


def _named_secrets(plugin: Exec | None) -> Iterator[str]:
    if plugin is None:
        return
    for variable in plugin.env or ():
        if _is_secret(variable.name):
            yield variable.value
    named = False
    for argument in plugin.args or ():
        option = _SECRET_OPTION.fullmatch(argument)
        if named and option is None:
            yield argument
        named = option is not None and _is_secret(option[1])
        if option is not None and option[2] and named:
            yield option[2]


def _is_secret(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None and _PUBLIC_NAME.search(name) is None
