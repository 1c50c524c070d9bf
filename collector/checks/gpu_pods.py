"""Looks for the pods of every preset in one cluster: in all namespaces, or else in those of the presets."""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec
from kubernetes_asyncio.client import CoreV1Api

from collector.checks.check import CONCURRENT_CLUSTERS, Check, plugin_timeout, run_checks
from collector.checks.finding import Finding, Subject
from collector.checks.fitting import Fit, PodGroup, Survey, find_fit
from collector.checks.rights import Right
from collector.collect import watcher
from collector.collect.objects import PodObject, decode_pod, without_echoes
from collector.collect.schedule import Candidate, find_container, ready
from collector.config import PRESETS, ClusterSettings, PodSource
from collector.kube.access import is_granted
from collector.kube.client import ApiClient, ApiMethod
from collector.kube.errors import ForbiddenError
from collector.kube.lister import Resource
from collector.kube.reflector import list_all
from collector.kube.session import Session

__all__ = ["FitCheck", "find_fits", "look_for_pods"]

_ALL = ""  # namespaces, as Kubernetes writes it


class FitCheck(Check):
    """Finds out what fits one cluster; `fit` stays None where nothing could be learned, and a problem says why."""

    def __init__(self, cluster: ClusterSettings, timeout: float) -> None:
        super().__init__(Finding(subject=Subject.CLUSTER, name=cluster.name))
        self.step = "loading its context"
        self.fit: Fit | None = None
        self._cluster = cluster
        self._plugin_timeout = plugin_timeout(timeout)

    async def run(self) -> None:
        """Look at nodes and pods; raises ClusterError."""
        session = Session(self._cluster, plugin_timeout=self._plugin_timeout)
        async with ApiClient(session) as client:
            self.step = "obtaining credentials"
            await session.authenticate()
            self.step = "listing its nodes"
            gpu_nodes = await _gpu_nodes(client, self._cluster)
            self.step = "looking for GPU pods"
            groups, namespaces = await look_for_pods(client)
        self.fit = find_fit(Survey(groups=tuple(groups), gpu_nodes=gpu_nodes, namespaces=namespaces))


async def find_fits(
    clusters: Sequence[ClusterSettings], timeout: float, on_done: Callable[[], None] = lambda: None
) -> list[FitCheck]:
    """Find out what fits each cluster, all at the same time, each for at most `timeout` seconds."""
    checks = [FitCheck(cluster, timeout) for cluster in clusters]
    await run_checks(checks, timeout, concurrency=CONCURRENT_CLUSTERS, on_done=on_done)
    return checks


async def look_for_pods(
    client: ApiClient, sources: Sequence[PodSource] = ()
) -> tuple[list[PodGroup], tuple[str, ...] | None]:
    """Return the pods of some sources and of every preset, and the namespaces looked in, None if in all.

    Selector by selector, so that no more is kept at a time than the pods of one. Raises ClusterError.
    """
    wanted = dict.fromkeys((*sources, *(source for preset in PRESETS.values() for source in preset)))
    by_selector: dict[str, list[PodSource]] = {}
    for source in wanted:
        by_selector.setdefault(source.selector, []).append(source)
    namespaces = await _namespaces(client, wanted)
    groups: dict[PodSource, PodGroup] = {}
    for selector, alike in by_selector.items():
        places = (_ALL,) if namespaces is None else namespaces
        if not selector:  # every pod, so only those of the namespaces that the sources name
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
    return frozenset(node.key for node in found.values() if node.facts.gpu_sign)


async def _namespaces(client: ApiClient, sources: Iterable[PodSource]) -> tuple[str, ...] | None:
    """Return in which namespaces pods can be looked for: None for all, else those of the sources that we may list."""
    if await _may_list(client, _ALL):
        return None
    names = dict.fromkeys(source.namespace for source in sources)
    return tuple([name for name in names if await _may_list(client, name)])


async def _may_list(client: ApiClient, namespace: str) -> bool:
    """Return whether pods may be listed; of a server that does not tell us, one is asked for."""
    granted = await is_granted(client, Right("list", "pods", namespace))
    if granted is None:
        try:
            await client.read(_pods(client, namespace), limit=1)
        except ForbiddenError:
            return False
    return granted is not False


async def _list(client: ApiClient, selector: str, namespace: str) -> Collection[PodObject]:
    method = _pods(client, namespace)
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
        )
