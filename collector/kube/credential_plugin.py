"""Exec credential plugins: the commands, such as `aws`, that a kubeconfig names as its source of credentials.

Plugins are run as kubectl runs them. A failing plugin is retried with exponential backoff, shared by all clusters whose
kubeconfigs name the same command with the same arguments and variables: one tries on behalf of all. A plugin that
receives the cluster's data (provideClusterInfo) counts as a separate one for each cluster.
"""

import base64
import codecs
import hashlib
import os
import re
import shutil
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from collector.files import in_time
from collector.kube import tls
from collector.kube.connection import ClusterEntry, ConnectionInfo, Exec, Redacted
from collector.kube.credentials import Credential, bearer, unfit
from collector.kube.errors import (
    UNDECODABLE,
    BadContextError,
    CredentialPluginFailedError,
    CredentialPluginMissingError,
)
from collector.kube.failure_backoff import FailureBackoff, LastFailure
from collector.kube.go_values import BadYamlError, WrongTypeError, convert, load_yaml
from collector.kube.plugin_slots import Rank, SharedPluginSlots
from collector.kube.processes import run_command
from collector.redaction import redact
from collector.text import describe_os_error, one_line

__all__ = ["PLUGIN_TIMEOUT_SECONDS", "CredentialPlugin"]

API_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
INTERACTIVE_MODES = ("Never", "IfAvailable", "Always")
PLUGIN_TIMEOUT_SECONDS = 60.0
MAX_STDOUT_BYTES = 1 << 20
MAX_STDERR_BYTES = 1 << 16  # only the end is kept; the rest is read and dropped
_ALL_PLUGINS = SharedPluginSlots()

# Patterns for the line of stderr that gives the reason, most specific first; the last matching line is quoted.
_REASONS = (
    re.compile(r"(?:\W*(?:error|fatal|panic)\b|[EF]\d{4} |[\w.]*(?:Error|Exception)\b:)", re.IGNORECASE),
    re.compile(
        r".*(?:error|failed|failure|denied|expired|invalid|unauthori[sz]ed|not found|cannot|unable)", re.IGNORECASE
    ),
)
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:[.,](\d+))?(Z|[+-]\d\d:\d\d)")
_GO_ZERO_TIME = datetime(1, 1, 1, tzinfo=UTC)


class CredentialPlugin:
    """One context's exec credential plugin: validates its settings when created, and runs when credentials are due."""

    def __init__(
        self,
        info: ConnectionInfo,
        *,
        timeout: float = PLUGIN_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        plugin = info.user.exec
        assert plugin is not None  # noqa: S101
        self._plugin = plugin
        self._info = info
        self._timeout = timeout
        self._clock = clock
        self._name = f'{info.where}: exec plugin "{one_line(plugin.command, 200)}"'
        if not plugin.command:
            raise BadContextError(f"{info.where}: exec: expected a command")
        if plugin.api_version not in API_VERSIONS:
            raise BadContextError(f"{self._name}: apiVersion: expected {' or '.join(API_VERSIONS)}")
        if any(not variable.name or variable.name.startswith("=") for variable in plugin.env or ()):
            raise BadContextError(f"{self._name}: env: expected a name for each variable")
        if not plugin.interactive_mode and plugin.api_version == API_VERSIONS[0]:
            raise BadContextError(
                f"{self._name}: expected interactiveMode, such as Never; {plugin.api_version} requires it"
            )
        if plugin.interactive_mode not in ("", *INTERACTIVE_MODES):
            raise BadContextError(f"{self._name}: interactiveMode: expected {' or '.join(INTERACTIVE_MODES)}")
        if plugin.interactive_mode == "Always":
            raise BadContextError(f"{self._name}: interactiveMode Always is not supported: a collector has no terminal")
        try:
            self._shared = _share(plugin, info)
        except UNDECODABLE:  # a recursive anchor
            raise BadContextError(f"{self._name}: the cluster's extension for the plugin is nested too deep") from None

    async def run(self) -> Credential:
        """Run the command and return its credential, unless it is backing off after a failure.

        Raises CredentialPluginMissingError and CredentialPluginFailedError.
        """
        self._check_backoff()
        if not self._shared.proven:
            async with self._shared.turn:  # one tries on behalf of all
                self._check_backoff()
                if not self._shared.proven:
                    return await self._run()
        return await self._run()

    def reset(self, version: object) -> None:
        """Allow an immediate run: the kubeconfig has changed to `version`."""
        self._shared.failure_backoff.reset(version)

    def _check_backoff(self) -> None:
        if (failure := self._shared.failure_backoff.recent(self._clock())) is not None:
            raise failure.kind(f"{self._name}{failure.text}")

    async def _run(self) -> Credential:
        started = self._clock()
        try:
            credential = await self._obtain()
        except CredentialPluginFailedError as error:
            failure = LastFailure(type(error), str(error).removeprefix(self._name))
            self._shared.proven = False
            self._shared.failure_backoff.failed(failure, started=started, now=self._clock())
            raise
        self._shared.proven = True
        self._shared.failure_backoff.succeeded()
        return credential

    async def _obtain(self) -> Credential:
        information = await anyio.to_thread.run_sync(self._information, abandon_on_cancel=True)
        environment = {
            **os.environ,
            **_variables(self._plugin),
            "KUBERNETES_EXEC_INFO": msgspec.json.encode(information).decode(),
        }
        command = await anyio.to_thread.run_sync(self._find, abandon_on_cancel=True)
        # Waiting for a slot is not the plugin's fault, so its timeout starts afterwards.
        async with _ALL_PLUGINS.slots.hold(self._shared.rank):
            output = await self._communicate([command, *(self._plugin.args or ())], environment)
        return await anyio.to_thread.run_sync(self._credential, output)

    def _failed(self, said: str) -> CredentialPluginFailedError:
        return CredentialPluginFailedError(f"{self._name}{said}")

    def _find(self) -> str:
        command = self._plugin.command
        is_path = os.sep in command  # a bare name is looked up in PATH
        if is_path:
            command = str(Path(self._info.folder) / command)
        try:
            found, is_file = in_time(command, lambda: (shutil.which(command), Path(command).is_file()))
        except OSError as error:
            why = describe_os_error(error, "cannot look it up")
            raise self._failed(f": {one_line(command, 200)}: {why}") from None
        except ValueError:  # not a valid path, such as one with a null byte
            found, is_file = None, False
        if found is None:
            if is_path and is_file:
                raise self._failed(f": {one_line(command, 200)} is not executable")
            place = f"there is no {one_line(command, 200)}" if is_path else "it is not in gpuid's PATH"
            hint = one_line(self._plugin.install_hint, 300) or place
            raise CredentialPluginMissingError(f"{self._name} is not installed: {hint}")
        return found

    def _information(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"interactive": False}
        if self._plugin.provide_cluster_info:
            trusted = tls.trusted_certificates(self._info.cluster, self._info.where)
            authority = {"certificate-authority-data": base64.b64encode(trusted).decode()} if trusted else {}
            spec["cluster"] = _about(self._info.cluster) | authority
        return {"kind": "ExecCredential", "apiVersion": self._plugin.api_version, "spec": spec}

    async def _communicate(self, command: list[str], environment: Mapping[str, str]) -> bytes:
        """Return the command's standard output."""
        try:
            ended = await run_command(
                command,
                environment,
                timeout=self._timeout,
                max_stdout=MAX_STDOUT_BYTES,
                max_stderr=MAX_STDERR_BYTES,
            )
        except (OSError, ValueError) as error:  # such as a script whose interpreter is missing
            why = describe_os_error(error, "its arguments or variables contain a null byte")
            raise self._failed(f" failed to start: {why}") from None
        if ended.overflowed:
            raise self._failed(f" printed more than {MAX_STDOUT_BYTES} bytes")
        if ended.timed_out:
            ending = f" timed out after {self._timeout:g} s and was killed"
        elif ended.code != 0:
            ending = f" exited with code {ended.code}" if ended.code > 0 else f" was killed by signal {-ended.code}"
        elif not ended.stdout:
            ending = " printed no output"
        else:
            return ended.stdout
        words = self._last_words(ended.stderr)
        raise self._failed(ending + (f": {words}" if words else ""))

    def _last_words(self, stderr: bytes) -> str:
        """Return the line of stderr that gives the reason, with anything that looks like a secret redacted."""
        lines = [line for text in stderr.decode(errors="replace").splitlines() if (line := one_line(text))]
        said = lines[-1] if lines else ""
        for pattern in _REASONS:
            if found := [line for line in lines if pattern.match(line)]:
                said = found[-1]
                break
        return redact(said, 200)

    def _credential(self, output: bytes) -> Credential:
        # The plugin's output is secret, so no error repeats any of it.
        try:
            answer = convert(self._document(output), _ExecCredential)
        except WrongTypeError as error:
            raise self._failed(f" printed an invalid ExecCredential: {error}") from None
        status = answer.status
        if status is None:
            raise self._failed(" printed an ExecCredential without a status")
        expires = self._expiry(status.expiration_timestamp)
        if bool(status.client_certificate_data) != bool(status.client_key_data):
            raise self._failed(" printed only one of clientCertificateData and clientKeyData")
        if not status.token and not status.client_certificate_data:
            raise self._failed(" printed neither a token nor a certificate")
        if wrong := unfit(status.token):
            raise self._failed(f" printed an invalid ExecCredential: status.token: contains {wrong}")
        header = bearer(status.token, self._name).authorization if status.token else ""
        if not status.client_certificate_data:
            return Credential(authorization=header, expires=expires)
        certificate = tls.Certificate(
            chain=status.client_certificate_data.encode(), key=status.client_key_data.encode()
        )
        # A certificate expires whatever the plugin says, so a new one is due before that.
        lapse = tls.validity(certificate.chain)
        if lapse is not None and lapse.ends > self._clock():
            expires = min(expires or lapse.ends, lapse.ends)
        return Credential(authorization=header, certificate=certificate, expires=expires, lapse=lapse)

    def _document(self, output: bytes) -> Any:
        """Return the parsed output, checked to be an ExecCredential of the right version."""
        text = output.removeprefix(codecs.BOM_UTF8)
        try:
            document = msgspec.json.decode(text)
        except UNDECODABLE:
            try:
                if text.lstrip()[:1] == b"{":  # YAML would take the part before a mistake for the whole
                    raise BadYamlError
                document = load_yaml(output)
            except BadYamlError:
                raise self._failed(" printed neither JSON nor YAML") from None
        if document is None:
            raise self._failed(" printed no output")
        if not isinstance(document, dict) or document.get("kind") not in (None, "", "ExecCredential"):
            raise self._failed(" did not print an ExecCredential")
        version = document.get("apiVersion")
        if version != self._plugin.api_version:
            # Repeat a version only if it is a valid one.
            known = isinstance(version, str) and re.fullmatch(r"client\.authentication\.k8s\.io/\w{1,20}", version)
            said = version if known else "no apiVersion" if version in (None, "") else "another apiVersion"
            raise self._failed(f" printed {said}, the kubeconfig says {self._plugin.api_version}")
        return document

    def _expiry(self, text: str | None) -> float | None:
        if text is None:
            return None
        found = _RFC3339.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            fraction = f".{found[2][:6]}" if found[2] else ""
            moment = datetime.fromisoformat(f"{found[1]}{fraction}{found[3]}")
            return None if moment == _GO_ZERO_TIME else moment.timestamp()
        except (ValueError, OverflowError):
            example = "2030-01-01T00:00:00Z"
            expected = f"status.expirationTimestamp: expected RFC 3339, such as {example}"
            raise self._failed(f" printed an invalid ExecCredential: {expected}") from None


class _Status(Redacted, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: str | None = None


class _ExecCredential(Redacted, frozen=True, rename="camel"):
    status: _Status | None = None


class _Shared:
    """State shared by all plugins that name one command with the same arguments and variables."""

    def __init__(self) -> None:
        self.turn = anyio.Lock()
        self.proven = False  # the last run succeeded: all may run it at the same time
        self.failure_backoff = FailureBackoff()

    @property
    def rank(self) -> Rank:
        return Rank.PROVEN if self.proven else Rank.FAILING if self.failure_backoff.failing else Rank.NEW


_SHARED: "weakref.WeakValueDictionary[bytes, _Shared]" = weakref.WeakValueDictionary()


def _variables(plugin: Exec) -> dict[str, str]:
    """Return the plugin's environment; of a name that contains `=`, a process sees only the part before it."""
    entries = (f"{variable.name}={variable.value}".partition("=") for variable in plugin.env or ())
    return {name: value for name, _, value in entries}


def _share(plugin: Exec, info: ConnectionInfo) -> _Shared:
    cluster = info.cluster
    variables = [(variable.name, variable.value) for variable in plugin.env or ()]
    told = (
        (_about(cluster), cluster.certificate_authority_data or cluster.certificate_authority)
        if plugin.provide_cluster_info
        else None
    )
    what = (info.folder if os.sep in plugin.command else "", plugin.command, plugin.args or (), variables, told)
    key = hashlib.sha256(msgspec.json.encode(what)).digest()  # variables may be secret
    if (shared := _SHARED.get(key)) is None:
        shared = _SHARED[key] = _Shared()
    return shared


def _about(cluster: ClusterEntry) -> dict[str, Any]:
    """Return the cluster's data for the plugin, without the certificates."""
    about = {
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
        "proxy-url": cluster.proxy_url,
        "disable-compression": cluster.disable_compression,
        "config": next(
            (one.extension for one in cluster.extensions or () if one.name == "client.authentication.k8s.io/exec"),
            None,
        ),
    }
    return {key: value for key, value in about.items() if value}
