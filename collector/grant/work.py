"""The work of `gpuid grant` in one cluster: rights, a test of their limits, and a token for the collector."""

import time
from collections.abc import Sequence
from enum import StrEnum

import anyio

from collector.checks.check import Check, plugin_timeout
from collector.checks.finding import Finding, Subject
from collector.checks.policies import ExecLimit, look_at_exec
from collector.checks.rights import USER
from collector.config import ClusterSettings
from collector.grant.contexts import CollectorContext, admin_cluster
from collector.grant.granting import Done, GrantError, Options, Outcome, apply, compare, revoke
from collector.grant.manifests import exec_sources
from collector.grant.objects import Objects
from collector.kube.client import ApiClient
from collector.kube.errors import NotFoundError
from collector.kube.session import Session

__all__ = ["Action", "Identify", "Work"]

ENFORCEMENT_SECONDS = 10.0  # within which API servers know an applied policy and roles
_PAUSE_SECONDS = 0.5


class Action(StrEnum):
    """The action on the rights."""

    PRINT = "print"
    APPLY = "apply"
    CHECK = "check"
    REVOKE = "revoke"
    NOTHING = "nothing"  # only tokens


class Identify(Check):
    """Identifies the cluster of a context; unreachable clusters are reported by the work itself."""

    def __init__(self, cluster: ClusterSettings, timeout: float) -> None:
        super().__init__(Finding(subject=Subject.CLUSTER, name=cluster.name))
        self.identity = ""
        self._cluster = cluster
        self._plugin_timeout = plugin_timeout(timeout)

    async def run(self) -> None:
        """Query the cluster; raises GpuidError."""
        async with ApiClient(Session(self._cluster, plugin_timeout=self._plugin_timeout)) as client:
            self.identity = await Objects(client).identity()


class Work(Check):
    """The work in one cluster and its results."""

    def __init__(
        self, cluster: ClusterSettings, action: Action, options: Options, seconds: int | None, timeout: float
    ) -> None:
        super().__init__(Finding(subject=Subject.CLUSTER, name=cluster.name))
        self.step = "calling its API server"
        self.timeout_hint = "raise --timeout or check the network"
        self.action = action
        self.done: list[Done] = []
        self.diffs: Sequence[Sequence[str]] = ()
        self.context: CollectorContext | None = None
        self.seconds = seconds  # lifetime of a new token
        self._cluster = cluster
        self._options = options
        self._plugin_timeout = plugin_timeout(timeout)

    @property
    def complete(self) -> bool:
        """Whether the cluster has exactly the rights it needs."""
        return self.finding.ok and not self.diffs and all(one.outcome is not Outcome.FOREIGN for one in self.done)

    async def run(self) -> None:
        """Do the work; raises GpuidError."""
        cluster = self._cluster
        if cluster.context is None:
            raise GrantError(
                "in_cluster has no context with an administrator's credentials; print the manifests and apply them"
                " with kubectl"
            )
        async with ApiClient(Session(cluster, plugin_timeout=self._plugin_timeout)) as client:
            if self.action is Action.APPLY:
                await apply(client, cluster, self._options, self.done)
                await self._try_policy(client)
            elif self.action is Action.CHECK:
                self.diffs = await compare(client, cluster, self._options)
                if not self.diffs:
                    await self._try_policy(client)
            elif self.action is Action.REVOKE:
                await revoke(client, self.done)
            if self.seconds is not None:
                entry = await anyio.to_thread.run_sync(admin_cluster, cluster.context, cluster.kubeconfig)
                try:
                    token = await Objects(client).token(self.seconds)
                except NotFoundError as error:
                    raise GrantError(f"{error}; grant the rights first with --apply") from error
                self.context = CollectorContext(cluster.context, entry, token)

    async def _try_policy(self, client: ApiClient) -> None:
        """Raise GrantError if exec is not limited as it should be, as far as an administrator can test that."""
        sources = exec_sources(self._cluster)
        if not self._options.policy or not sources:
            return
        self.step = "testing whether its admission policy is enforced"
        deadline = time.monotonic() + ENFORCEMENT_SECONDS
        while True:
            found = await look_at_exec(client, sources[0].namespace, as_user=USER)
            if found in (ExecLimit.IN_FORCE, ExecLimit.UNKNOWN):
                return
            if time.monotonic() >= deadline:
                break
            await anyio.sleep(_PAUSE_SECONDS)
        if found is ExecLimit.NOT_IN_FORCE:
            raise GrantError(
                "the admission policies exist but are not enforced, so exec allows any command; is the admission"
                " plugin ValidatingAdmissionPolicy enabled in every API server? Revoke the rights with --revoke,"
                " or accept it with --without-policy"
            )
