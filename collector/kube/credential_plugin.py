"""Exec credential plugins: the commands, such as `aws`, that a kubeconfig names as its source of credentials."""

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
from collector.kube.errors import (
    UNDECODABLE,
    BadContextError,
    CredentialPluginFailedError,
    CredentialPluginMissingError,
)
from collector.kube.limits import SharedLimiter
from collector.kube.tls import Certificate, trusted_certificates
from collector.redaction import redact
from collector.text import describe_os_error, one_line

__all__ = ["CredentialPlugin"]

API_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
PLUGIN_TIMEOUT_SECONDS = 60.0
MAX_STDOUT_BYTES = 1 << 20
MAX_STDERR_BYTES = 1 << 16  # the rest is read and dropped
_ALL_PLUGINS = SharedLimiter("exec credential plugins", 8)  # each may well be a Python interpreter of its own


class CredentialPlugin:
    """One context's exec credential plugin: made once, which checks its settings, and run when credentials are due."""

    def __init__(self, info: ConnectionInfo, *, timeout: float = PLUGIN_TIMEOUT_SECONDS) -> None:
        plugin = info.user.exec
        assert plugin is not None  # noqa: S101
        self._plugin = plugin
        self._info = info
        self._timeout = timeout
        self._name = f'{info.where}: exec plugin "{plugin.command}"'
        if not plugin.command:
            raise BadContextError(f"{info.where}: exec: expected a command")
        if plugin.api_version not in API_VERSIONS:
            raise BadContextError(f"{self._name}: apiVersion: expected {' or '.join(API_VERSIONS)}")
        if plugin.interactive_mode == "Always":
            raise BadContextError(
                f"{self._name}: interactiveMode Always needs a terminal, which a collector does not have"
            )

    async def run(self) -> Credential:
        """Run the command and return what it prints.

        Raises CredentialPluginMissingError and CredentialPluginFailedError.
        """
        information = await anyio.to_thread.run_sync(self._information)
        environment = {
            **os.environ,
            **{variable.name: variable.value for variable in self._plugin.env or ()},
            "KUBERNETES_EXEC_INFO": msgspec.json.encode(information).decode(),
        }
        command = self._find()
        try:
            async with _ALL_PLUGINS.limiter:  # waiting for it is not the plugin's fault, so its time starts after
                with anyio.fail_after(self._timeout):
                    output = await self._communicate([command, *(self._plugin.args or ())], environment)
        except TimeoutError:
            raise CredentialPluginFailedError(
                f"{self._name} gave no answer within {self._timeout:g} s and was killed"
            ) from None
        return self._credential(output)

    def _find(self) -> str:
        command = self._plugin.command
        is_path = os.sep in command  # a bare name is looked for in PATH
        if is_path:
            command = str(Path(self._info.folder) / command)
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
            cluster = self._info.cluster
            trusted = trusted_certificates(cluster, self._info.where)
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
        """Return the command's standard output; whatever happens, neither it nor its children are left running."""
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
            why = describe_os_error(error, "its arguments hold a null byte")
            raise CredentialPluginFailedError(f"{self._name} cannot be started: {why}") from None
        stdout, stderr = bytearray(), bytearray()
        try:
            async with anyio.create_task_group() as reading:
                reading.start_soon(_collect, process.stdout, stdout, MAX_STDOUT_BYTES, reading.cancel_scope.cancel)
                reading.start_soon(_collect, process.stderr, stderr, MAX_STDERR_BYTES, None)
            if reading.cancel_scope.cancel_called:
                raise CredentialPluginFailedError(f"{self._name} printed more than {MAX_STDOUT_BYTES} bytes")
            code = await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.wait()
                await process.aclose()
        if code != 0:
            said = next((line for line in stderr.decode(errors="replace").splitlines() if line.strip()), "")
            ending = f"exited with code {code}" if code > 0 else f"was killed by signal {-code}"
            raise CredentialPluginFailedError(f"{self._name} {ending}" + (f": {redact(said, 200)}" if said else ""))
        return bytes(stdout)

    def _credential(self, output: bytes) -> Credential:
        # What the plugin printed is secret, so no error repeats any of it.
        try:
            answer = msgspec.json.decode(output, type=_ExecCredential)
        except UNDECODABLE:
            raise CredentialPluginFailedError(f"{self._name} did not print an ExecCredential") from None
        if answer.kind != "ExecCredential" or answer.api_version != self._plugin.api_version:
            expected = f"ExecCredential of {self._plugin.api_version}"
            raise CredentialPluginFailedError(f"{self._name} did not print an {expected}")
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


async def _collect(
    stream: anyio.abc.ByteReceiveStream | None, into: bytearray, limit: int, on_more: Callable[[], None] | None
) -> None:
    """Keep at most `limit` bytes; call `on_more` at more, or read and drop them, so that no writer is blocked."""
    assert stream is not None  # noqa: S101
    async for chunk in stream:
        if on_more is not None and len(into) + len(chunk) > limit:
            on_more()
        into += chunk[: limit - len(into)]
