"""Exec plugins: the commands, such as `aws`, that a kubeconfig names to get credentials from."""

import base64
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgspec

from collector.kube.connection import ConnectionInfo, Redacted
from collector.kube.credentials import Credential, bearer
from collector.kube.errors import BadContextError, CredentialPluginFailedError, CredentialPluginMissingError
from collector.kube.limits import SharedLimiter
from collector.kube.tls import Certificate, authorities
from collector.text import one_line

__all__ = ["CredentialPlugin"]

_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_DEADLINE = 60.0  # seconds that a plugin may take
_AT_ONCE = SharedLimiter("exec plugins", 8)  # each may well be a Python interpreter of its own
_STDOUT = 1 << 20  # bytes of output that credentials may take
_STDERR = 1 << 16  # bytes of complaint that are kept; the rest is read and dropped


class CredentialPlugin:
    """One context's exec plugin; made once, which proves its settings, and run whenever credentials are due."""

    def __init__(self, access: ConnectionInfo, *, deadline: float = _DEADLINE) -> None:
        plugin = access.user.exec
        assert plugin is not None  # noqa: S101
        self._plugin = plugin
        self._access = access
        self._deadline = deadline
        self._name = f'{access.where}: exec plugin "{plugin.command}"'
        if not plugin.command:
            raise BadContextError(f"{access.where}: exec: expected a command")
        if plugin.api_version not in _VERSIONS:
            raise BadContextError(f"{self._name}: apiVersion: expected {' or '.join(_VERSIONS)}")
        if plugin.interactive_mode == "Always":
            raise BadContextError(f"{self._name}: interactiveMode Always needs a terminal, which a collector has not")

    async def run(self) -> Credential:
        """Run the command and read what it prints; raises PluginMissing and PluginFailed."""
        information = await anyio.to_thread.run_sync(self._information)
        environment = {
            **os.environ,
            **{variable.name: variable.value for variable in self._plugin.env or ()},
            "KUBERNETES_EXEC_INFO": msgspec.json.encode(information).decode(),
        }
        command = self._find()
        try:
            async with _AT_ONCE.limiter:  # waiting for it is not the plugin's fault, so the deadline begins after
                with anyio.fail_after(self._deadline):
                    output = await self._communicate([command, *(self._plugin.args or ())], environment)
        except TimeoutError:
            raise CredentialPluginFailedError(
                f"{self._name} gave no answer within {self._deadline:g} s and was killed"
            ) from None
        return self._credential(output)

    def _find(self) -> str:
        command = self._plugin.command
        is_path = os.sep in command  # a bare name is looked for in PATH
        if is_path:
            command = str(Path(self._access.folder) / command)
        found = shutil.which(command)
        if found is None:
            if is_path and Path(command).is_file():
                raise CredentialPluginFailedError(f"{self._name}: {command} is not executable")
            hint = one_line(self._plugin.install_hint, 300)
            raise CredentialPluginMissingError(f"{self._name} is not installed" + (f": {hint}" if hint else ""))
        return found

    def _information(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"interactive": False}
        if self._plugin.provide_cluster_info:
            cluster = self._access.cluster
            trusted = authorities(cluster, self._access.where)
            about = {
                "server": cluster.server,
                "tls-server-name": cluster.tls_server_name,
                "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
                "certificate-authority-data": base64.b64encode(trusted or b"").decode(),
                "proxy-url": cluster.proxy_url,
                "disable-compression": cluster.disable_compression,
                "config": next(
                    (
                        one.extension
                        for one in cluster.extensions or ()
                        if one.name == "client.authentication.k8s.io/exec"
                    ),
                    None,
                ),
            }
            spec["cluster"] = {key: value for key, value in about.items() if value}
        return {"kind": "ExecCredential", "apiVersion": self._plugin.api_version, "spec": spec}

    async def _communicate(self, command: list[str], environment: Mapping[str, str]) -> bytes:
        """Give the command's standard output; whatever happens, neither it nor its children are left running."""
        try:
            process = await anyio.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # such as a script whose interpreter is absent
            why = (getattr(error, "strerror", None) or "its arguments hold a null byte").lower()
            raise CredentialPluginFailedError(f"{self._name} cannot be started: {why}") from None
        output, complaint = bytearray(), bytearray()
        try:
            async with anyio.create_task_group() as reading:
                reading.start_soon(_keep, process.stdout, output, _STDOUT, reading.cancel_scope.cancel)
                reading.start_soon(_keep, process.stderr, complaint, _STDERR, None)
            if reading.cancel_scope.cancel_called:
                raise CredentialPluginFailedError(f"{self._name} printed more than {_STDOUT} bytes")
            code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.wait()
                await process.aclose()
        if code != 0:
            said = next((line for line in complaint.decode(errors="replace").splitlines() if line.strip()), "")
            ending = f"exited with code {code}" if code > 0 else f"was ended by signal {-code}"
            raise CredentialPluginFailedError(f"{self._name} {ending}" + (f": {one_line(said, 200)}" if said else ""))
        return bytes(output)

    def _credential(self, output: bytes) -> Credential:
        # What the plugin printed is a secret, so no error repeats any of it.
        try:
            answer = msgspec.json.decode(output, type=_ExecCredential)
        except msgspec.MsgspecError:
            raise CredentialPluginFailedError(f"{self._name} printed no ExecCredential") from None
        if answer.kind != "ExecCredential" or answer.api_version != self._plugin.api_version:
            raise CredentialPluginFailedError(f"{self._name} printed no ExecCredential of {self._plugin.api_version}")
        status = answer.status or _Status()
        if bool(status.client_certificate_data) != bool(status.client_key_data):
            raise CredentialPluginFailedError(
                f"{self._name} printed only one of clientCertificateData and clientKeyData"
            )
        if not status.token and not status.client_certificate_data:
            raise CredentialPluginFailedError(f"{self._name} printed neither a token nor a certificate")
        try:
            header = bearer(status.token, self._name).authorization if status.token else ""
        except BadContextError as error:
            raise CredentialPluginFailedError(str(error)) from None
        certificate = None
        if status.client_certificate_data:
            certificate = Certificate(
                chain=status.client_certificate_data.encode(), key=status.client_key_data.encode()
            )
        expires = status.expiration_timestamp.timestamp() if status.expiration_timestamp else None
        return Credential(authorization=header, certificate=certificate, expires=expires)


class _Status(Redacted, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _ExecCredential(Redacted, frozen=True, rename="camel"):
    kind: str = ""
    api_version: str = ""
    status: _Status | None = None


async def _keep(
    stream: anyio.abc.ByteReceiveStream | None, into: bytearray, limit: int, on_more: Callable[[], None] | None
) -> None:
    """Keep at most `limit` bytes; `on_more` is called for more, or else they are read, so that no writer is blocked."""
    assert stream is not None  # noqa: S101
    async for chunk in stream:
        if on_more is not None and len(into) + len(chunk) > limit:
            on_more()
        into += chunk[: limit - len(into)]
