"""Watches the ResourceSlices of a cluster if its API server serves them and access is granted.

They are optional: a failure here never takes the cluster down or keeps a node from being read, and delays the first
reading only for a limited time. The last known state remains valid while they are not visible.
"""

import functools
import random
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
from kubernetes_asyncio.client import ResourceApi, ResourceV1Api, ResourceV1beta1Api, ResourceV1beta2Api

from collector.backoff import Backoff
from collector.collect.objects import without_echoes
from collector.collect.slices import DRIVER, SliceObject, decode_slice
from collector.kube.client import ApiClient, ApiMethod
from collector.kube.errors import ClusterError, ForbiddenError, NotFoundError
from collector.kube.lister import not_kubernetes
from collector.kube.reflector import Reflector, Resource, WatchIntervals
from collector.kube.wire import MalformedError, decode
from collector.model import SliceState, SliceStatus, WatchRestart

__all__ = ["SliceIntervals", "SliceWatch", "find_slice_api", "slices"]

_APIS: dict[str, Callable[[ApiClient], Any]] = {  # the newest first; v1alpha3 (1.31) was never served by default
    "v1": ResourceV1Api,
    "v1beta2": ResourceV1beta2Api,
    "v1beta1": ResourceV1beta1Api,
}


class _Version(msgspec.Struct, frozen=True):
    version: str = ""


class _Group(msgspec.Struct, frozen=True):
    versions: list[_Version] | None = None


_GROUP_DECODER = msgspec.json.Decoder(_Group)


class SliceIntervals(msgspec.Struct, frozen=True, kw_only=True):
    """How long to wait, in seconds; only tests have reason to change them."""

    absent: Backoff = Backoff(initial=5.0, maximum=300.0)  # before retrying an API server without the API
    forbidden: Backoff = Backoff(initial=5.0, maximum=300.0)  # before retrying after forbidden or not found
    failed: Backoff = Backoff(initial=1.0, maximum=15.0, jitter=0.5)  # before repeating a failed discovery


class SliceWatch:
    """Mirrors the slices of one cluster until cancelled.

    `on_change` is called for each change of a slice, `on_status` for whether they are visible, `on_restart` with the
    reason that the watch started over, and `on_settled`, maybe several times, once the first list is complete or will
    not come soon.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        on_change: Callable[[SliceObject | None, SliceObject | None], None],
        on_status: Callable[[SliceStatus], None],
        on_restart: Callable[[WatchRestart], None],
        on_settled: Callable[[], None],
        timing: WatchIntervals,
        intervals: SliceIntervals | None = None,
        rng: random.Random,
    ) -> None:
        self._client = client
        self._on_status = on_status
        self._on_restart = on_restart
        self._on_settled = on_settled
        self._intervals = intervals or SliceIntervals()
        self._rng = rng
        self._api: Callable[[ApiClient], Any] = ResourceV1Api
        self._failures = 0  # in a row, to find the API or to watch
        self._watched = False  # once, at least
        self._error: ClusterError | None = None  # why the reflector was stopped
        self._scope = anyio.CancelScope()  # of the reflector
        # One for all versions of the API: it knows which slices are gone once it lists again.
        self._reflector = Reflector(
            client,
            slices(client, self._list),
            on_change=on_change,
            on_proof=self._on_settled,
            on_restart=self._note_restart,
            on_health=self._note_health,
            timing=timing,
            rng=rng,
        )

    async def run(self) -> None:
        """Watch until cancelled, whatever fails."""
        while True:
            delay = await self._run_once()
            await anyio.sleep(delay)

    async def _run_once(self) -> float:
        """Find the API and watch until that fails permanently; returns after how many seconds to retry."""
        try:
            api = await find_slice_api(self._client)
        except ClusterError as error:
            self._fail(error)
        else:
            if api is None:
                return self._note_absence()
            self._api = api
            with anyio.CancelScope() as self._scope:
                await self._reflector.run()
        refused = isinstance(self._error, (ForbiddenError, NotFoundError))
        backoff = self._intervals.forbidden if refused else self._intervals.failed
        self._failures += 1
        return backoff.delay(self._failures - 1, self._rng)

    def _note_absence(self) -> float:
        """Record that the server does not or no longer serve the API; returns after how many seconds to retry."""
        backoff = self._intervals.absent
        if self._watched:
            host, backoff = self._client.session.host, self._intervals.forbidden
            self._note(SliceState.FAILING, f"{host}: the API server no longer serves ResourceSlices")
        else:
            self._note(SliceState.ABSENT)
        self._failures += 1
        return backoff.delay(self._failures - 1, self._rng)

    async def _list(self, **arguments: Any) -> Any:
        return await self._api(self._client).list_resource_slice(**arguments)

    def _note_health(self, error: ClusterError | None) -> None:
        if error is None:
            self._failures, self._watched = 0, True
            self._note(SliceState.WATCHED)
            return
        self._fail(error)
        if isinstance(error, (ForbiddenError, NotFoundError)):  # not every few seconds, and maybe of another version
            self._scope.cancel()

    def _note_restart(self, reason: WatchRestart) -> None:
        if reason is not WatchRestart.FORBIDDEN:  # which is common: the right is optional
            self._on_restart(reason)

    def _fail(self, error: ClusterError) -> None:
        self._error = error
        self._note(SliceState.FORBIDDEN if isinstance(error, ForbiddenError) else SliceState.FAILING, str(error))

    def _note(self, state: SliceState, message: str = "") -> None:
        self._on_status(SliceStatus(state, message))
        if state is not SliceState.WATCHED:
            self._on_settled()


def slices(client: ApiClient, method: ApiMethod) -> Resource[SliceObject]:
    """Return the slices of the NVIDIA driver; `method` lists those of all drivers."""
    selected = functools.partial(method, field_selector=f"spec.driver={DRIVER}")
    return Resource(name="resourceslices", method=selected, decode=without_echoes(decode_slice, client.session.secrets))


async def find_slice_api(client: ApiClient) -> Callable[[ApiClient], Any] | None:
    """Return the newest API class for slices that the server serves, None if there is none; raises ClusterError."""
    try:
        group = decode(_GROUP_DECODER, await client.read(ResourceApi(client).get_api_group))
    except NotFoundError:
        return None
    except MalformedError as error:
        raise not_kubernetes(client, error) from error
    served = {one.version for one in group.versions or ()}
    return next((api for version, api in _APIS.items() if version in served), None)
