"""The check of one cluster, step by step: everything that the collector will do there."""

import contextlib
import time
from collections.abc import Sequence

import anyio

from collector.checks.access import server_version, user_name
from collector.checks.check import Check, plugin_timeout
from collector.checks.cluster_hints import ISSUER_HINT, READ_HINTS, error_hint, plugin_hint, read_hint
from collector.checks.finding import ClusterDetails, Finding, FitDetails, PodCount, Subject
from collector.checks.fitting import MAX_NAMES, PodSurvey, find_fit
from collector.checks.gpu_pods import look_for_pods
from collector.checks.policies import NOT_IN_FORCE, ExecLimit, look_at_exec
from collector.checks.rights import METHOD_RIGHTS, SLICE_RIGHTS, USER, ask_rights, describe_missing, needed_rights
from collector.checks.slices import SliceReport, look_at_slices
from collector.checks.tokens import look_at_token
from collector.collect import watcher
from collector.collect.log_times import LogTimes, moment_of
from collector.collect.node_reader import pod_reader, why_stale
from collector.collect.objects import NodeObject, PodObject
from collector.collect.schedule import Candidate, choose, lacks_container, ready, why_uncovered
from collector.collect.smi_reading import GpusLostError
from collector.config import ClusterSettings, PodSource, SourceMethod
from collector.kube.access import Right
from collector.kube.client import ApiClient
from collector.kube.errors import ClusterError
from collector.kube.identity import Proof
from collector.kube.reflector import list_all
from collector.kube.session import Session
from collector.model import GpuidError, GpuRef, NodeInfo, ReadError, ReadFailure
from collector.text import counted, enumerated, one_line
from collector.timestamps import rfc3339
from collector.tls import Validity

__all__ = ["ClusterCheck"]


class ClusterCheck(Check):
    """The steps on one cluster, in the order in which the collector needs them."""

    def __init__(self, cluster: ClusterSettings, timeout: float) -> None:
        self.details = ClusterDetails(context=cluster.context)
        super().__init__(Finding(subject=Subject.CLUSTER, name=cluster.name, details=self.details))
        self.step = "loading its context"
        self.nodes: Sequence[NodeInfo] = ()  # those with a GPU pod, which the collector would read
        self.scope = cluster.scope
        self.proofs: frozenset[Proof] = frozenset()  # proof of the server's identity
        self._gpu_nodes: Sequence[NodeObject] = ()  # those with GPUs in Kubernetes
        self._slices: SliceReport | None = None
        self._cluster = cluster
        self._plugin_timeout = plugin_timeout(timeout)
        self._plugin = ""  # the kubeconfig's credential plugin
        self._anonymous = False  # the kubeconfig has no credentials

    async def run(self) -> None:
        """Run the steps; raises ClusterError for problems that end the check."""
        session = Session(
            self._cluster,
            on_credential_expiry=self._note_expiry,
            on_proof=self._note_proofs,
            plugin_timeout=self._plugin_timeout,
        )
        async with ApiClient(session) as client:
            self.details.server = client.session.host
            self._anonymous = session.anonymous
            await self._authenticate(client)
            await self._reach_server(client)
            await self._check_token(client)
            await self._check_rights(client)
            await self._check_exec_limit(client)
            candidates = [
                Candidate(order, source, pod)
                for order, source in enumerate(self._cluster.active_sources)
                for pod in await self._list_pods(client, source)
            ]
            await self._list_nodes(client, candidates)
            if not candidates:
                await self._report_no_pods(client)
            elif (chosen := choose(candidates)) is None:
                await self._explain_unreadable(client, candidates)
            else:
                await self._report_uncovered(client, candidates)
                await self._read_node(client, chosen.source, chosen.pod)

    def hint(self, error: GpuidError) -> str:
        """Return how to fix an error of this cluster, or an empty string."""
        return error_hint(error, self._cluster, anonymous=self._anonymous, has_plugin=bool(self._plugin))

    def _note_expiry(self, expiry: Validity | None) -> None:
        self.details.credential_expiry = rfc3339(expiry.ends if expiry else None, "seconds")

    def _note_proofs(self, proofs: frozenset[Proof]) -> None:
        self.proofs = proofs

    async def _authenticate(self, client: ApiClient) -> None:
        if plugin := client.session.credential_plugin:
            self._plugin = plugin
            self.step = f'running the credential plugin "{plugin}"'
            self.timeout_hint = plugin_hint(self._cluster)
        else:
            self.step = "obtaining credentials"
            self.timeout_hint = ISSUER_HINT
        await client.session.authenticate()
        self.timeout_hint = "raise --timeout or check the network"

    async def _reach_server(self, client: ApiClient) -> None:
        self.step = "reaching its API server"
        await server_version(client)
        started = time.perf_counter()  # a connection is open from here on
        self.details.version = client.session.secrets.redact(await server_version(client)) or None
        self.details.latency_seconds = round(time.perf_counter() - started, 4)
        self.step = "authenticating"
        self.details.user = client.session.secrets.redact(await user_name(client)) or None

    async def _check_token(self, client: ApiClient) -> None:
        self.step = "asking whether its token can be renewed"
        if (found := await look_at_token(client)) is not None:
            self.details.token = found.details
            self.finding.add_note(found.text)

    async def _check_rights(self, client: ApiClient) -> None:
        self.step = "checking its permissions"
        granted = await ask_rights(client, needed_rights(self._cluster))
        self.details.rights = {str(right): answer for right, answer in granted.items() if answer is not None}
        for problem in describe_missing(granted):
            self.finding.add_problem(problem.text, problem.hint)

    async def _check_exec_limit(self, client: ApiClient) -> None:
        """Report if the account created by `gpuid grant` is not limited to the sources' commands."""
        namespaces = [one.namespace for one in self._cluster.active_sources if one.method is SourceMethod.EXEC]
        if self.details.user == USER and namespaces:
            self.step = "testing whether its exec is limited"
            if await look_at_exec(client, namespaces[0]) is ExecLimit.NOT_IN_FORCE:
                self.finding.add_note(NOT_IN_FORCE)

    def _is_denied(self, right: Right) -> bool:
        return self.details.rights.get(str(right)) is False

    async def _list_nodes(self, client: ApiClient, candidates: Sequence[Candidate]) -> None:
        self.step = "listing its nodes"
        if not self._is_denied(Right("list", "nodes")):
            found, _version = await list_all(client, watcher.nodes(client, self._cluster))
            with_pod = {candidate.pod.node for candidate in candidates if not lacks_container(candidate)}
            self.nodes = [node.facts for node in found.values() if node.key in with_pod]
            self.step = "listing its ResourceSlices"
            slices = await look_at_slices(client, list(filter(self._is_denied, SLICE_RIGHTS)))
            self.details.resource_slices = one_line(slices.text)
            self._slices = slices
            if not slices.seen:
                self.finding.add_note(slices.text)
            self._gpu_nodes = [node for node in found.values() if node.facts.gpu_sign or node.key in slices.gpus]

    async def _explain_unreadable(self, client: ApiClient, candidates: Sequence[Candidate]) -> None:
        """Report why no pod can be read although there are some."""
        for candidate in candidates:
            if ready(candidate.pod) and lacks_container(candidate):
                text = f'{candidate.pod.key}: the pod has no container named "{candidate.source.container}"'
                await self._report_unfit(client, text, READ_HINTS[candidate.source.method][ReadFailure.NO_CONTAINER])
                return
        await self._report_unfit(client, "no pod is ready", "see `kubectl describe pod`")

    async def _report_uncovered(self, client: ApiClient, candidates: Sequence[Candidate]) -> None:
        """Report GPU nodes that no ready pod covers; new ones may still be waiting for theirs."""
        by_node: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            by_node.setdefault(candidate.pod.node, []).append(candidate)
        oldest = time.time() - self._cluster.grace
        lacking = [
            node.key for node in self._gpu_nodes if node.created <= oldest and why_uncovered(by_node.get(node.key, ()))
        ]
        if lacking:
            names = enumerated(lacking, MAX_NAMES)
            await self._report_unfit(
                client,
                f"{len(lacking)} of {counted(len(self._gpu_nodes), 'GPU node')} without a ready GPU pod: {names}",
                "each needs a ready pod of a source; node_selector can exclude nodes",
            )

    async def _report_no_pods(self, client: ApiClient) -> None:
        if not self.details.pods:  # listing is not allowed, which is already reported
            with contextlib.suppress(ClusterError):
                hint = await self._fit_hint(client, "")
                if self.details.fit is not None:
                    self.finding.add_problem("the GPU pods are elsewhere", hint)
            return
        places = " or ".join(
            f'"{source.selector}" in namespace {source.namespace}' for source in self._cluster.active_sources
        )
        hint = "set `preset` or `sources` to the pods that can run nvidia-smi"
        text = f"no pods match {places}"
        if self._slices is not None and (self._slices.gpus or not self._slices.seen):
            text += f"; {self._slices.text}"
        await self._report_unfit(client, text, hint)

    async def _report_unfit(self, client: ApiClient, text: str, hint: str) -> None:
        """Report a problem with the pods of the configured sources, and a better fit for the cluster."""
        step, self.step = self.step, "looking for pods of other presets"
        try:
            hint = await self._fit_hint(client, hint)
        except ClusterError as error:
            hint = f"{hint}; could not look for other presets: {error}"
        finally:  # even if there is no time left to look
            self.finding.add_problem(text, hint)
        self.step = step

    async def _fit_hint(self, client: ApiClient, hint: str) -> str:
        """Return what would cover more GPU nodes, and add it to the details; `hint` if nothing would."""
        cluster = self._cluster
        groups, namespaces = await look_for_pods(client, cluster.active_sources)
        denied = self._is_denied(Right("list", "nodes"))
        gpu_nodes = None if denied else frozenset(node.key for node in self._gpu_nodes)
        survey = PodSurvey(groups=tuple(groups), gpu_nodes=gpu_nodes, namespaces=namespaces)
        fit = find_fit(survey, presets=cluster.presets, sources=cluster.sources)
        better = not fit.is_among(cluster.active_sources)
        if better:
            self.details.fit = FitDetails(
                setting=fit.setting,
                presets=fit.presets,
                sources=fit.sources,
                covered=fit.covered,
                gpu_nodes=None if gpu_nodes is None else len(gpu_nodes),
                uncovered=fit.uncovered,
                namespaces=namespaces,
            )
            hint = "; ".join(filter(None, (f"{fit.setting} fits: {fit.seen}", fit.caution)))
        return "; ".join(filter(None, (hint, fit.remedy, survey.limits if fit.uncovered or not better else "")))

    async def _list_pods(self, client: ApiClient, source: PodSource) -> list[PodObject]:
        """Return a source's pods and record their number, or nothing without the right to list them."""
        self.step = f"listing the pods of {source.namespace}"
        if self._is_denied(Right("list", "pods", source.namespace)):
            return []
        pods = await _list(client, source)
        usable = [pod for pod in pods if not lacks_container(Candidate(0, source, pod))]
        self.details.pods.append(
            PodCount(
                namespace=source.namespace,
                selector=source.selector,
                container=source.container,
                ready=sum(map(ready, usable)),
                total=len(usable),
            )
        )
        return pods

    async def _read_node(self, client: ApiClient, source: PodSource, pod: PodObject) -> None:
        name = f"{source.namespace}/{pod.name}"
        logs = source.method is SourceMethod.LOG
        self.step = f"reading the log of {name}" if logs else f"running {source.command[0]} in {name}"
        rights = (Right(verb, resource, source.namespace) for verb, resource in METHOD_RIGHTS[source.method])
        if any(map(self._is_denied, rights)):
            return
        self.details.read = name
        self.details.node = pod.node
        try:
            reading = await pod_reader(client, source, pod.name, self._cluster).read(
                lambda: (), self._capacity(pod.node)
            )
        except ReadError as error:
            self._add_failure(name, source, error)
        else:
            report = reading.report
            self.details.gpus = len(report.gpus) + len(report.unidentified)
            self.details.driver_version = report.driver_version
            listed = map(GpuRef.of, report.unidentified)
            self._add_lost(name, [*report.lost, *(ref for ref in listed if ref.pci_bus_id)])
            if reading.printed is not None:
                now = time.time()
                printed = LogTimes(moment_of(pod.created), anyio.current_time()).date(reading.printed, now)
                stale = why_stale(printed.time, now, self._cluster.refresh)
                for failure in filter(None, (reading.printed.failure, stale)):
                    self._add_failure(name, source, failure)

    def _add_failure(self, name: str, source: PodSource, error: ReadError) -> None:
        self.finding.add_problem(f"{name}: {error}", read_hint(error, source))
        self._add_lost(name, error.lost if isinstance(error, GpusLostError) else ())

    def _add_lost(self, name: str, lost: Sequence[GpuRef]) -> None:
        for ref in dict.fromkeys(lost):
            which = " ".join(filter(None, (ref.uuid, f"at {ref.pci_bus_id}" if ref.pci_bus_id else "")))
            self.finding.add_problem(f"{name}: the GPU {which} does not respond", "reset it, or replace the card")

    def _capacity(self, name: str) -> int | None:
        return next((node.capacity for node in self.nodes if node.name == name), None)


async def _list(client: ApiClient, source: PodSource) -> list[PodObject]:
    found, _version = await list_all(client, watcher.pods(client, source))
    return list(found.values())
