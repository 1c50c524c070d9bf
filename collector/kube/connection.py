"""The connection settings of one kubeconfig context, as values; no files are read here."""

from pathlib import Path
from typing import Any

import msgspec

__all__ = ["AuthProvider", "ClusterEntry", "ConnectionInfo", "Exec", "Extension", "Redacted", "User", "Variable"]


class Redacted(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Keeps its values out of every repr, because some are secret."""

    def __repr__(self) -> str:
        """Return the type name only."""
        return f"{type(self).__name__}(…)"


class Extension(Redacted, frozen=True):
    """A named value that a tool put into a kubeconfig."""

    name: str = ""
    extension: Any = None


class ClusterEntry(Redacted, frozen=True):
    """One entry of `clusters`; paths are absolute."""

    server: str = ""
    certificate_authority: str = ""  # path
    certificate_authority_data: str = ""  # base64 of PEM; takes precedence over the path
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    disable_compression: bool = False
    extensions: tuple[Extension, ...] | None = None


class Variable(Redacted, frozen=True):
    """One environment variable of an exec credential plugin."""

    name: str = ""
    value: str = ""


class Exec(Redacted, frozen=True, rename="camel"):
    """How to run an exec credential plugin."""

    command: str = ""
    api_version: str = ""
    args: tuple[str, ...] | None = None
    env: tuple[Variable, ...] | None = None
    install_hint: str = ""
    interactive_mode: str = ""
    provide_cluster_info: bool = False


class AuthProvider(Redacted, frozen=True):
    """The legacy way to name a source of tokens."""

    name: str = ""
    config: dict[str, str] | None = None


class User(Redacted, frozen=True):
    """One entry of `users`; paths are absolute."""

    client_certificate: str = ""  # path
    client_certificate_data: str = ""  # base64 of PEM; takes precedence over the path
    client_key: str = ""  # path
    client_key_data: str = ""  # base64 of PEM; takes precedence over the path
    token: str = ""
    token_file: str = msgspec.field(default="", name="tokenFile")  # path; takes precedence over the token
    username: str = ""
    password: str = ""
    exec: Exec | None = None
    auth_provider: AuthProvider | None = None
    as_user: str = msgspec.field(default="", name="as")
    as_uid: str = ""
    as_groups: tuple[str, ...] | None = None
    as_user_extra: dict[str, tuple[str, ...] | None] | None = None

    @property
    def kind(self) -> str:
        """How this user authenticates, without secrets, such as `exec: aws`."""
        if self.token_file:
            return "token file"
        if self.token:
            return "token"
        if self.username:
            return "basic"
        if self.exec:
            return f"exec: {Path(self.exec.command).name}"
        if self.auth_provider:
            return f"auth-provider: {self.auth_provider.name}"
        return "client certificate" if self.client_certificate or self.client_certificate_data else "none"


class ConnectionInfo(Redacted, frozen=True):
    """All connection settings of one context."""

    where: str  # the context and its file, for messages
    cluster: ClusterEntry
    folder: str = ""  # directory that the user's exec command is relative to
    user: User = User()
    user_name: str = ""  # name in the kubeconfig
    namespace: str = ""  # of the context
    files: tuple[str, ...] = ()  # the kubeconfig files that this was read from

    @property
    def source_files(self) -> tuple[str, ...]:
        """Every file to reload on change; not the token file, which is reread anyway."""
        paths = (self.cluster.certificate_authority, self.user.client_certificate, self.user.client_key)
        return (*self.files, *(path for path in paths if path))
