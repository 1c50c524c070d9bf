"""Tries on one cluster what the collector will do there, step by step, and notes what is missing."""

import shlex
import time
from collections.abc import Collection, Mapping, Sequence

import anyio
import msgspec
from kubernetes_asyncio.client import (
    AuthenticationV1Api,
    AuthorizationV1Api,
    V1ResourceAttributes,
    V1SelfSubjectAccessReview,
    V1SelfSubjectAccessReviewSpec,
    V1SelfSubjectReview,
    VersionApi,
)

from collector.collect import nvidia_smi, watcher
from collector.collect.duplicates import DuplicateDetector
from collector.collect.objects import PodObject
from collector.collect.schedule import Candidate, choose, ready
from collector.config import PRESETS, ClusterSettings, PodSource
from collector.kube import exec as pod_exec
from collector.kube.client import ApiClient
from collector.kube.errors import (
    BadContextError,
    ClusterError,
    CredentialPluginFailedError,
    ForbiddenError,
    ServerError,
    UnauthorizedError,
    UnreachableError,
    UntrustedCertificateError,
)
from collector.kube.reflector import list_all
from collector.kube.session import Session
from collector.model import NodeInfo, ReadFailure
from collector.text import one_line

__all__ = ["Finding", "Pods", "Problem", "find_duplicates", "try_cluster"]


class Problem(msgspec.Struct, frozen=True):
    """What is wrong, and what would mend it."""

    text: str
    hint: str = ""


class Pods(msgspec.Struct, frozen=True, kw_only=True):
    """What one source has found."""

    namespace: str
    selector: str
    container: str
    ready: int
    total: int


class Finding(msgspec.Struct, kw_only=True):
    """All that was learnt of one cluster; what was not reached is None or empty."""

    cluster: str
    context: str | None
    ok: bool = False
    server: str | None = None
    version: str | None = None
    latency_seconds: float | None = None  # of one small request, connection and credentials already there
    user: str | None = None
    rights: dict[str, bool] = {}  # "verb resource in namespace" -> granted
    pods: list[Pods] = []
    read: str | None = None  # `namespace/pod` of the trial reading
    node: str | None = None
    gpus: int | None = None
    driver_version: str | None = None
    problems: list[Problem] = []


async def try_cluster(cluster: ClusterSettings, timeout: float, nodes: dict[str, list[NodeInfo]]) -> Finding:
    """Learn what one cluster allows; whatever goes wrong there is a problem in the finding.

    `nodes` is given the nodes with a GPU pod of each cluster, for find_duplicates().
    """
    trial = _Trial(cluster, nodes)
    try:
        with anyio.fail_after(timeout):
            await trial.run()
    except TimeoutError:
        trial.fails(f"no answer within {timeout:g} s while {trial.doing}", trial.remedy)
    except ClusterError as error:
        trial.fails(str(error), _hint(error, cluster))
    except Exception as error:  # one cluster's failure never stops the others
        trial.fails(f"{type(error).__name__} while {trial.doing}: {error}")
    trial.finding.ok = not trial.finding.problems
    return trial.finding


def find_duplicates(
    clusters: Sequence[ClusterSettings], findings: Mapping[str, Finding], nodes: dict[str, list[NodeInfo]]
) -> None:
    """Add a problem to each cluster that a collector would not read, because one before it is the same."""
    identities = DuplicateDetector()
    identities.follow([cluster.name for cluster in clusters])
    for cluster in clusters:
        for node in nodes.get(cluster.name, ()):
            if (duplicate := identities.claim(cluster.name, node)) is not None:
                findings[cluster.name].ok = False
                findings[cluster.name].problems.append(Problem(one_line(duplicate)))
                break


class _Right(msgspec.Struct, frozen=True):
    verb: str
    resource: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f" in {self.namespace}" if self.namespace else "")


class _Trial:
    """The steps on one cluster, in the order in which the collector needs them."""

    def __init__(self, cluster: ClusterSettings, nodes: dict[str, list[NodeInfo]]) -> None:
        self.finding = Finding(cluster=cluster.name, context=cluster.context)
        self._nodes = nodes
        self.doing = "loading its context"
        self.remedy = ""  # what to do when it takes too long
        self._cluster = cluster

    def fails(self, text: str, hint: str = "") -> None:
        self.finding.problems.append(Problem(one_line(text), one_line(hint)))

    async def run(self) -> None:
        async with ApiClient(Session(self._cluster)) as client:
            self.finding.server = client.session.host
            if plugin := client.session.credential_plugin:
                self.doing = f'running the exec plugin "{plugin}"'
                self.remedy = f"`{_kubectl(self._cluster)}` {_SAME_PLUGIN}"
            else:
                self.doing = "obtaining credentials"
            await client.session.authenticate()
            self.remedy = "a higher --timeout, or look at the network"
            await self._reach(client)
            await self._rights(client)
            candidates = [
                Candidate(order, source, pod)
                for order, source in enumerate(self._cluster.watched)
                for pod in await self._pods(client, source)
            ]
            await self._list_nodes(client, {candidate.pod.node for candidate in candidates})
            if not any(pods.total for pods in self.finding.pods):
                if self.finding.pods:
                    await self._look_elsewhere(client)
            elif (chosen := choose(candidates)) is None:
                self.fails("none of the pods is ready", "kubectl describe pod tells why; nodes are read once they are")
            else:
                await self._read(client, chosen.source, chosen.pod)

    async def _reach(self, client: ApiClient) -> None:
        self.doing = "reaching its API server"
        await _version(client)
        started = time.perf_counter()
        self.finding.version = one_line(await _version(client)) or None
        self.finding.latency_seconds = round(time.perf_counter() - started, 4)
        self.doing = "authenticating"
        self.finding.user = one_line(await _user(client)) or None

    async def _rights(self, client: ApiClient) -> None:
        self.doing = "asking for its rights"
        rights = [_Right(verb, "nodes") for verb in ("list", "watch")]
        for namespace in dict.fromkeys(source.namespace for source in self._cluster.watched):
            rights += [_Right(verb, "pods", namespace) for verb in ("list", "watch")]
            rights += [_Right(verb, "pods/exec", namespace) for verb in ("create", "get")]
        granted: dict[_Right, bool | None] = {}
        errors: list[ClusterError] = []

        async def ask(right: _Right) -> None:
            try:
                granted[right] = await _granted(client, right)
            except ClusterError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for right in rights:
                tasks.start_soon(ask, right)
        if errors:
            raise errors[0]
        self.finding.rights = {str(right): answer for right in rights if (answer := granted[right]) is not None}
        missing: dict[tuple[str, str], list[str]] = {}
        for right in rights:
            if granted[right] is False:
                missing.setdefault((right.resource, right.namespace), []).append(right.verb)
        for (resource, namespace), verbs in missing.items():
            where = f" in namespace {namespace}" if namespace else ""
            self.fails(
                f"may not {' or '.join(verbs)} {resource}{where}",
                f'grant {{apiGroups: [""], resources: ["{resource}"], verbs: {msgspec.json.encode(verbs).decode()}}}'
                f" by a {'Role' + where if namespace else 'ClusterRole'}",
            )

    async def _list_nodes(self, client: ApiClient, names: Collection[str]) -> None:
        """Note the nodes of these names, which are those that a collector would take up."""
        self.doing = "listing its nodes"
        if self.finding.rights.get(str(_Right("list", "nodes"))) is not False:
            found, _version = await list_all(client, watcher.nodes(client, self._cluster))
            self._nodes[self._cluster.name] = [node.facts for node in found.values() if node.key in names]

    async def _pods(self, client: ApiClient, source: PodSource) -> list[PodObject]:
        """Count a source's pods and hand them on; without the right to list them there are none to count."""
        self.doing = f"listing the pods of {source.namespace}"
        if self.finding.rights.get(str(_Right("list", "pods", source.namespace))) is False:
            return []
        pods = await _list(client, source)
        self.finding.pods.append(
            Pods(
                namespace=source.namespace,
                selector=source.selector,
                container=source.container,
                ready=sum(map(ready, pods)),
                total=len(pods),
            )
        )
        return pods

    async def _look_elsewhere(self, client: ApiClient) -> None:
        self.doing = "looking for pods of other presets"
        sources = self._cluster.watched
        hint = "set `preset` or `sources` to the pods that can run nvidia-smi"
        for name, source in PRESETS.items():
            if source not in sources:
                try:
                    found = len(await _list(client, source))
                except ClusterError:
                    continue
                if found:
                    hint = f'preset = "{name}" would find {found}'
        places = " or ".join(f'namespace {source.namespace} by "{source.selector}"' for source in sources)
        self.fails(f"no pods found in {places}", hint)

    async def _read(self, client: ApiClient, source: PodSource, pod: PodObject) -> None:
        self.doing = f"running {self._cluster.command[0]} in {source.namespace}/{pod.name}"
        if any(
            self.finding.rights.get(str(_Right(v, "pods/exec", source.namespace))) is False for v in ("create", "get")
        ):
            return
        self.finding.read = f"{source.namespace}/{pod.name}"
        self.finding.node = pod.node
        try:
            output = await pod_exec.run(
                client,
                source.namespace,
                pod.name,
                source.container,
                self._cluster.command,
                timeout=self._cluster.exec_timeout,
                limit=nvidia_smi.LIMIT,
            )
            log = nvidia_smi.parse(output.stdout)
        except pod_exec.ExecError as error:
            self.fails(f"{self.finding.read}: {error}", _EXEC_HINTS.get(error.reason, ""))
        except nvidia_smi.BadOutputError as error:
            self.fails(f"{self.finding.read}: {error}", _EXEC_HINTS[ReadFailure.BAD_OUTPUT])
        else:
            self.finding.gpus = len(log.gpus) + len(log.unidentified)
            self.finding.driver_version = log.driver_version


_EXEC_HINTS = {
    ReadFailure.FORBIDDEN: "pods/exec needs both create and get",
    ReadFailure.NO_CONTAINER: "set `container` of the source to a container of this pod",
    ReadFailure.NO_BINARY: "set `command`, or choose pods whose container has nvidia-smi",
    ReadFailure.TIMEOUT: "nvidia-smi hangs on that node, or exec_timeout is too short",
    ReadFailure.EXIT_STATUS: "the driver of that node may be broken; kubectl exec shows all of it",
    ReadFailure.BAD_OUTPUT: "`command` must print what `nvidia-smi -q -x` prints",
}


async def _version(client: ApiClient) -> str:
    try:
        return str((await VersionApi(client).get_code()).git_version)
    except (ForbiddenError, ValueError):  # it is reachable, which is what counts
        return ""


async def _user(client: ApiClient) -> str:
    """Ask who we are; a server too old for it, or one that does not say, is no problem."""
    try:
        review = await AuthenticationV1Api(client).create_self_subject_review(V1SelfSubjectReview())
    except (ForbiddenError, ServerError, ValueError):
        return ""
    info = review.status and review.status.user_info
    return info.username or "" if info else ""


async def _granted(client: ApiClient, right: _Right) -> bool | None:
    """Ask the server whether it would let us; None when it does not say."""
    resource, _, subresource = right.resource.partition("/")
    asked = V1ResourceAttributes(namespace=right.namespace, verb=right.verb, resource=resource, subresource=subresource)
    review = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec(resource_attributes=asked))
    try:
        answer = await AuthorizationV1Api(client).create_self_subject_access_review(review)
    except (ForbiddenError, ServerError, ValueError):
        return None
    return bool(answer.status.allowed) if answer.status else None


async def _list(client: ApiClient, source: PodSource) -> list[PodObject]:
    found, _version = await list_all(client, watcher.pods(client, source))
    return list(found.values())


_SAME_PLUGIN = "runs the same plugin and shows what it prints"


def _kubectl(cluster: ClusterSettings) -> str:
    if cluster.context is None:
        return "the pod's service account"
    return f"kubectl --context {shlex.quote(cluster.context)} get nodes"


def _hint(error: ClusterError, cluster: ClusterSettings) -> str:
    kubectl = _kubectl(cluster)
    match error:
        case BadContextError():
            return "`kubectl config view` shows what the kubeconfig says" if cluster.context else ""
        case UnauthorizedError():
            return f"log in again; `{kubectl}` fails likewise until then" if cluster.context else f"look at {kubectl}"
        case CredentialPluginFailedError():
            return f"`{kubectl}` {_SAME_PLUGIN}"
        case UntrustedCertificateError():
            return "does the kubeconfig's certificate-authority belong to this server, and fits tls-server-name?"
        case UnreachableError():
            return "is the address right, and is a VPN or a proxy-url needed?"
        case _:
            return ""
