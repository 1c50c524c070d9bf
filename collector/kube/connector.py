"""Keeps the connection to one API server current: the kubeconfig, its certificates, the credentials, a transport."""

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from types import MappingProxyType

import anyio
import anyio.to_thread
import msgspec

from collector.config import ClusterSettings
from collector.files import file_stamp, in_time
from collector.kube import authentication, kubeconfig
from collector.kube.connection import ClusterEntry, ConnectionInfo
from collector.kube.credential_plugin import PLUGIN_TIMEOUT_SECONDS
from collector.kube.credentials import Credential, Credentials
from collector.kube.errors import ClusterError, UnauthorizedError, UnreachableError, unexpected
from collector.kube.identity import Evidence, Proof
from collector.kube.limits import LoopShare
from collector.kube.secrets import add_connection, add_credential
from collector.kube.transport import ConnectionSettings, Transport
from collector.redaction import Secrets
from collector.tls import Validity

__all__ = ["Connector", "HandedOver"]

log = logging.getLogger(__name__)

FILE_CHECK_INTERVAL_SECONDS = 60.0  # how often the kubeconfig and its certificates are checked for changes

_NOT_REPORTED = Validity(math.nan, math.nan)

HandedOver = MutableMapping[tuple[str | None, str | None], tuple[ClusterEntry, Credentials]]
"""By kubeconfig and context: the credentials of the last session there, and the server that they are for."""


class Connector:
    """The transport and the credential with which the next request is sent.

    When files change or credentials expire, the next request uses the new ones, and requests in progress are not
    interrupted. The parameters are those of Session, which also owns `secrets` and `share`.
    """

    settings: ConnectionSettings
    credentials: Credentials

    def __init__(
        self,
        cluster: ClusterSettings,
        *,
        secrets: Secrets,
        share: LoopShare,
        clock: Callable[[], float] = time.time,
        service_account: Path = kubeconfig.SERVICE_ACCOUNT_FOLDER,
        plugin_timeout: float = PLUGIN_TIMEOUT_SECONDS,
        handed_over: HandedOver | None = None,
        on_credential_expiry: Callable[[Validity | None], None] = lambda _expiry: None,
        on_proof: Callable[[frozenset[Proof]], None] = lambda _proofs: None,
    ) -> None:
        self.host = cluster.context or "in_cluster"  # for messages; the server's URL once it is known
        self._cluster = cluster
        self._secrets = secrets
        self._share = share
        self._evidence = Evidence(on_proof)  # proof of the server's identity
        self._clock = clock
        self._service_account = service_account
        self._plugin_timeout = plugin_timeout
        self._handed_over: HandedOver = {} if handed_over is None else handed_over
        self._on_credential_expiry = on_credential_expiry
        self._expiry: Validity | None = _NOT_REPORTED
        self._info: ConnectionInfo | None = None
        self._presented: Credential | None = None  # the last credential whose secrets are among `secrets`
        self._stamps: dict[str, object] = {}
        # The stamps of changed files that are not used, and why.
        self._ignored: tuple[dict[str, object], str] | None = None
        self._checked_at = clock()
        self._changing = anyio.Lock()
        self._transport: Transport | None = None
        self._open: set[Transport] = set()

    async def connect(self) -> None:
        """Read the kubeconfig and connect as it says from the next request on; raises BadContextError."""
        try:
            await self._adopt(await anyio.to_thread.run_sync(self._find, abandon_on_cancel=True))
        except ClusterError:
            raise
        except Exception as error:
            raise unexpected(f"{self.host}: reading its kubeconfig", error) from None

    async def close(self) -> None:
        """Close every connection."""
        for transport in self._open:
            await transport.close()

    async def lease(self) -> tuple[Transport, Credential]:
        """Return the current transport, in use, and the credential that goes with it."""
        await self._reload_if_changed()
        while True:
            credential = await self.credential()
            if credential is not self._presented:
                add_credential(self._secrets, credential)
                self._presented = credential
            transport = self._transport
            if transport is not None and self._fits(transport, credential):
                self._report_expiry(transport, credential)
                transport.acquire()
                return transport, credential
            async with self._changing:
                if transport is self._transport:
                    await self._replace_transport(credential)

    async def credential(self) -> Credential:
        """Return the credential to use now; raises ClusterError."""
        try:
            return await self.credentials.get()
        except ClusterError:
            raise
        except Exception as error:
            raise unexpected(f"{self.settings.info.where}: obtaining credentials", error) from None

    async def cured(self, error: BaseException, transport: Transport, credential: Credential) -> bool:
        """Return whether a retry may succeed: with other credentials, or a changed kubeconfig."""
        if isinstance(error, UnauthorizedError):
            return await self._renewed(transport, credential)
        return isinstance(error, UnreachableError) and await self._changed(transport)

    def _fits(self, transport: Transport, credential: Credential) -> bool:
        return transport.settings is self.settings and transport.client_certificate == (
            credential.certificate or transport.settings.client_certificate
        )

    async def _replace_transport(self, credential: Credential) -> None:
        settings, old = self.settings, self._transport
        self._transport = await Transport.open(
            settings,
            credential.certificate or settings.client_certificate,
            self._secrets,
            share=self._share,
            max_error_size=self._cluster.max_error_size,
        )
        self._open = {one for one in self._open if not one.http.closed} | {self._transport}
        if old is not None:
            await old.retire()

    def _report_expiry(self, transport: Transport, credential: Credential) -> None:
        """Report the earliest expiry of our credentials, if it has changed."""
        own = transport.settings.validity if credential.certificate is None else None
        expiry = min((found for found in (own, credential.lapse) if found), key=lambda found: found.ends, default=None)
        if expiry != self._expiry:
            self._expiry = expiry
            self._on_credential_expiry(expiry)

    async def _renewed(self, transport: Transport, credential: Credential) -> bool:
        """Return whether there are now other credentials than those just refused."""
        self.credentials.refused(credential)
        changed = await self._changed(transport)
        fresh = await self.credential()
        return changed or (
            (fresh.authorization, fresh.certificate) != (credential.authorization, credential.certificate)
        )

    async def _changed(self, transport: Transport) -> bool:
        """Return whether the files differ from those that a transport was made from."""
        await self._reload_if_changed(now=True)
        return transport.settings is not self.settings

    async def _reload_if_changed(self, *, now: bool = False) -> None:
        """Read the kubeconfig and its certificates again if a file has changed; checks once a minute, or `now`.

        A change that could not be used is tried again once a minute.
        """
        if not now and not self._check_due():
            return
        async with self._changing:
            if not now and not self._check_due():
                return
            stamps = await anyio.to_thread.run_sync(_stamps, self.settings.info, self._stamps, abandon_on_cancel=True)
            ignored = self._ignored is not None and stamps == self._ignored[0]
            if ignored and not self._check_due():
                return
            checked_at, self._checked_at = self._checked_at, self._clock()
            if stamps == self._stamps:
                return
            before, self._stamps = self._stamps, stamps
            try:
                await self.connect()
            except BaseException as error:
                self._stamps = before  # the next check tries again: the reason may be the system's
                if not isinstance(error, ClusterError):
                    self._checked_at = checked_at
                    raise
                if self._ignored == (stamps, str(error)):
                    return
                self._ignored = stamps, str(error)
                log.warning("ignoring changed kubeconfig files: %s", error, extra={"cluster": self._cluster.name})
            else:
                self._ignored = None
            self.credentials.reset([(file, stamps[file]) for file in self.settings.info.files if file in stamps])

    def _check_due(self) -> bool:
        return not 0 <= self._clock() - self._checked_at < FILE_CHECK_INTERVAL_SECONDS

    def _find(self) -> ConnectionInfo:
        if self._cluster.context is None:
            return kubeconfig.in_cluster(self._service_account)
        return kubeconfig.find(self._cluster.context, self._cluster.kubeconfig)

    async def _adopt(self, info: ConnectionInfo) -> None:
        """Connect as `info` says from the next request on; unchanged credentials are kept."""
        stamps = await anyio.to_thread.run_sync(_stamps, info, abandon_on_cancel=True)
        settings = await anyio.to_thread.run_sync(ConnectionSettings, info, self._evidence, abandon_on_cancel=True)
        before = self._info
        add_connection(self._secrets, info, settings)
        same = {key: getattr(info, key) for key in ("where", "files", "user_name", "namespace")}
        if before is None or msgspec.structs.replace(before, **same) != info:
            context = (self._cluster.kubeconfig, self._cluster.context)
            server, kept = self._handed_over.get(context, (None, None))
            if server != info.cluster:
                kept = None
            self.credentials = authentication.choose(info, self._clock, self._secrets, self._plugin_timeout, kept)
            self._handed_over[context] = (info.cluster, self.credentials)
        self._info, self.settings = info, settings
        self._evidence.add_server(settings.server, settings.server_name, settings.proxy, settings.trust)
        # The stamp from before the read counts: changes made in between are then detected next time.
        self._stamps = {path: self._stamps.get(path, stamp) for path, stamp in stamps.items()}
        self.host = settings.host


def _stamps(info: ConnectionInfo, before: Mapping[str, object] = MappingProxyType({})) -> dict[str, object]:
    """Return the stamp of each source file, or the previous one if a file system does not respond."""
    stamps: dict[str, object] = {}
    for path in info.source_files:
        try:
            stamps[path] = in_time(path, functools.partial(file_stamp, path))
        except OSError:
            stamps[path] = before.get(path)
    return stamps
