"""Searches one cluster for the pods of every known source, in all namespaces or else in the permitted ones."""

import functools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import anyio
import msgspec
from kubernetes_asyncio.client import CoreV1Api

from collector.checks.check import CONCURRENT_CLUSTERS, Check, plugin_timeout, run_checks
from collector.checks.finding import Finding, Subject
from collector.checks.fitting import Fit, PodGroup, PodSurvey, find_fit
from collector.checks.rights import SLICE_RIGHTS
from collector.checks.slices import look_at_slices
from collector.collect import watcher
from collector.collect.objects import PodObject, decode_pod, without_echoes
from collector.collect.schedule import Candidate, find_container, ready
from collector.config import OTHER_SOURCES, PRESETS, ClusterSettings, PodSource
from collector.kube.access import Right, is_granted
from collector.kube.client import ApiClient, ApiMethod
from collector.kube.errors import ForbiddenError, ServerError
from collector.kube.lister import Resource
from collector.kube.reflector import list_all
from collector.kube.session import Session
from collector.kube.wire import MalformedError, decode, decode_page

__all__ = ["MAX_NAMESPACES", "FitCheck", "find_fits", "look_for_pods"]

MAX_NAMESPACES = 100  # searched one by one, without the right to list pods in all

_ALL = ""  # namespaces, in the form of Kubernetes
_LIVING = "status.phase!=Failed,status.phase!=Succeeded"  # pods that run or may still run; not evicted ones
_FURTHER_NAMESPACES = ("nvidia",)  # of the chart and of the DRA driver, in Amazon's user guide
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


class _Metadata(msgspec.Struct):
    name: str = ""


class _Namespace(msgspec.Struct):
    metadata: _Metadata


_NAMESPACE_DECODER = msgspec.json.Decoder(_Namespace)


class FitCheck(Check):
    """Finds what fits one cluster; `fit` stays None if nothing could be learned, with a problem that says why."""

    def __init__(self, cluster: ClusterSettings, timeout: float) -> None:
        super().__init__(Finding(subject=Subject.CLUSTER, name=cluster.name))
        self.step = "loading its context"
        self.fit: Fit | None = None
        self._cluster = cluster
        self._plugin_timeout = plugin_timeout(timeout)

    async def run(self) -> None:
        """Examine nodes and pods; raises ClusterError."""
        session = Session(self._cluster, plugin_timeout=self._plugin_timeout)
        async with ApiClient(session) as client:
            self.step = "obtaining credentials"
            await session.authenticate()
            self.step = "looking for GPU nodes"
            gpu_nodes = await _gpu_nodes(client, self._cluster)
            self.step = "looking for GPU pods"
            groups, namespaces = await look_for_pods(client)
        self.fit = find_fit(PodSurvey(groups=tuple(groups), gpu_nodes=gpu_nodes, namespaces=namespaces))


async def find_fits(
    clusters: Sequence[ClusterSettings], timeout: float, on_done: Callable[[], None] = lambda: None
) -> list[FitCheck]:
    """Find what fits each cluster, concurrently, each for at most `timeout` seconds."""
    checks = [FitCheck(cluster, timeout) for cluster in clusters]
    await run_checks(checks, timeout, concurrency=CONCURRENT_CLUSTERS, on_done=on_done)
    return checks


async def look_for_pods(
    client: ApiClient, sources: Sequence[PodSource] = ()
) -> tuple[list[PodGroup], tuple[str, ...] | None]:
    """Return the pods of some sources and all known ones, and the namespaces searched (None: all).

    Works selector by selector, to keep only the pods of one at a time. Raises ClusterError.
    """
    presets = (source for preset in PRESETS.values() for source in preset)
    wanted = dict.fromkeys((*sources, *presets, *OTHER_SOURCES))
    by_selector: dict[str, list[PodSource]] = {}
    for source in wanted:
        by_selector.setdefault(source.selector, []).append(source)
    namespaces = await _namespaces(client, wanted)
    groups: dict[PodSource, PodGroup] = {}
    for selector, alike in by_selector.items():
        places = (_ALL,) if namespaces is None else namespaces
        if not selector:  # every pod, so only in the sources' namespaces
            named = dict.fromkeys(source.namespace for source in alike)
            places = tuple(name for name in named if namespaces is None or name in namespaces)
        for namespace in places:
            pods = await _list(client, selector, namespace)
            for source in alike:
                for group in _group(source, pods):
                    groups.setdefault(group.source, group)
    return list(groups.values()), namespaces


async def _gpu_nodes(client: ApiClient, cluster: ClusterSettings) -> frozenset[str] | None:
    if await is_granted(client, Right("list", "nodes")) is False:
        return None
    try:
        found, _version = await list_all(client, watcher.nodes(client, cluster))
    except ForbiddenError:
        return None
    denied = [right for right in SLICE_RIGHTS if await is_granted(client, right) is False]
    listed = (await look_at_slices(client, denied)).gpus
    return frozenset(node.key for node in found.values() if node.facts.gpu_sign or node.key in listed)


async def _namespaces(client: ApiClient, sources: Iterable[PodSource]) -> tuple[str, ...] | None:
    """Return the namespaces to search: None for all, else the known ones that we may list."""
    if await _may_list(client, _ALL):
        return None
    known = (*(source.namespace for source in sources), *_FURTHER_NAMESPACES, client.session.namespace)
    names = [name for name in dict.fromkeys((*known, *await _existing(client))) if _NAMESPACE.fullmatch(name)]
    listed: set[str] = set()

    async def ask(name: str) -> None:
        if await _may_list(client, name):
            listed.add(name)

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(ask, name)
    return tuple(name for name in names if name in listed)


async def _existing(client: ApiClient) -> list[str]:
    """Return the names of up to MAX_NAMESPACES namespaces; none if we may not list them."""
    if not await is_granted(client, Right("list", "namespaces")):
        return []
    try:
        page = decode_page(await client.read(CoreV1Api(client).list_namespace, limit=MAX_NAMESPACES))
        return [decode(_NAMESPACE_DECODER, item).metadata.name for item in page.items[:MAX_NAMESPACES]]
    except (ForbiddenError, ServerError, MalformedError):
        return []


async def _may_list(client: ApiClient, namespace: str) -> bool:
    """Return whether pods may be listed; if the server does not say, try to list one."""
    granted = await is_granted(client, Right("list", "pods", namespace))
    if granted is None:
        try:
            await client.read(_pods(client, namespace), limit=1)
        except ForbiddenError:
            return False
    return granted is not False


async def _list(client: ApiClient, selector: str, namespace: str) -> Collection[PodObject]:
    method = functools.partial(_pods(client, namespace), field_selector=_LIVING)
    if selector:
        method = functools.partial(method, label_selector=selector)
    decode = without_echoes(decode_pod, client.session.secrets)
    found, _version = await list_all(client, Resource(name="pods", method=method, decode=decode))
    return found.values()


def _pods(client: ApiClient, namespace: str) -> ApiMethod:
    core = CoreV1Api(client)
    if namespace == _ALL:
        return core.list_pod_for_all_namespaces
    return functools.partial(core.list_namespaced_pod, namespace)


def _group(source: PodSource, pods: Iterable[PodObject]) -> Iterator[PodGroup]:
    """Yield the pods that have the container of a source, by namespace."""
    by_namespace: dict[str, list[PodObject]] = {}
    for pod in pods:
        if not pod.terminating and find_container(Candidate(0, source, pod)) is not None:
            by_namespace.setdefault(pod.namespace, []).append(pod)
    for namespace, found in by_namespace.items():
        try:
            there = msgspec.structs.replace(source, namespace=namespace)
        except ValueError:  # a name that no API server accepts
            continue
        yield PodGroup(
            source=there,
            ready=sum(map(ready, found)),
            total=len(found),
            nodes=frozenset(pod.node for pod in found if pod.node),
            ready_nodes=frozenset(pod.node for pod in found if pod.node and ready(pod)),
        )
