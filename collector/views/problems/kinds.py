"""The kinds of problems, how severe each is, what it is a consequence of, and what to do about it."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from collector.model import ClusterState

__all__ = ["CAUSES", "DOWN", "KINDS", "OF_ALL", "Kind", "NodeCondition", "ProblemKind", "Severity"]


class Severity(StrEnum):
    """How severe a problem is, in the words of Prometheus' alerts; the worst first."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class NodeCondition(StrEnum):
    """What can be wrong with a node, as the cluster's page filters by it."""

    FAILING = "failing"
    LOST = "lost"
    DEGRADED = "degraded"
    MARKED_RMA = "rma"
    MISSING = "missing"
    UNREAD = "unread"
    OVERDUE = "overdue"
    CONFLICT = "conflict"
    CLAIM = "claim"


class ProblemKind(StrEnum):
    """What is wrong: a closed set."""

    CONFIG_REJECTED = "config_rejected"
    CONFIG_RESTART = "config_restart"
    STORE_DOWN = "store_down"
    STORE_DAMAGED = "store_damaged"
    NO_LEADER = "no_leader"
    SINK_FAILING = "sink_failing"
    SINK_BEHIND = "sink_behind"
    DEAD_LETTERS = "dead_letters"
    CLUSTER_STARTING = "cluster_starting"
    CLUSTER_BAD_CONTEXT = "cluster_bad_context"
    CLUSTER_CREDENTIAL_PLUGIN_MISSING = "cluster_credential_plugin_missing"
    CLUSTER_CREDENTIAL_PLUGIN_FAILED = "cluster_credential_plugin_failed"
    CLUSTER_UNAUTHORIZED = "cluster_unauthorized"
    CLUSTER_FORBIDDEN = "cluster_forbidden"
    CLUSTER_UNREACHABLE = "cluster_unreachable"
    CLUSTER_SERVER_ERROR = "cluster_server_error"
    CLUSTER_LIMIT_EXCEEDED = "cluster_limit_exceeded"
    CLUSTER_UNOWNED = "cluster_unowned"
    CLUSTER_DUPLICATE = "cluster_duplicate"
    CLUSTER_NOT_LISTED = "cluster_not_listed"
    CLUSTER_STALE = "cluster_stale"
    CLUSTER_UNREAD = "cluster_unread"
    NO_MATCHING_NODES = "no_matching_nodes"
    NO_GPU_PODS = "no_gpu_pods"
    SOURCE_WITHOUT_PODS = "source_without_pods"
    RESEMBLANCE = "resemblance"
    SLICES_UNSEEN = "slices_unseen"
    LABELS_FAILING = "labels_failing"
    NODE_FAILING = "node_failing"
    NODE_UNREAD = "node_unread"
    NODE_PENDING = "node_pending"
    NODE_OVERDUE = "node_overdue"
    GPU_MISSING = "gpu_missing"
    GPU_LOST = "gpu_lost"
    GPU_DEGRADED = "gpu_degraded"
    GPU_MARKED_RMA = "gpu_marked_rma"
    CONFLICT = "conflict"
    CLAIM = "claim"


class Kind(NamedTuple):
    """How problems of one kind are treated."""

    severity: Severity
    remedy: str  # {check} stands for the command that checks the cluster or clusters
    nodes: NodeCondition | None = None  # by which a cluster's page shows the nodes that have it


_K = ProblemKind
_CRITICAL, _WARNING, _INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO
_CREDENTIALS = "Renew the credentials of the kubeconfig context; `{check}` shows what the API server says to them."
_PLUGIN = "Run the context's credential plugin by hand where gpuid runs; `{check}` runs it as gpuid does."

KINDS: Mapping[ProblemKind, Kind] = MappingProxyType(
    {
        _K.CONFIG_REJECTED: Kind(
            _WARNING,
            "Correct the file; gpuid takes it as soon as it is valid. Until then the previous configuration stays in"
            " force, and the next start would fail.",
        ),
        _K.CONFIG_RESTART: Kind(_INFO, "Restart gpuid. All other changes are in force."),
        _K.STORE_DOWN: Kind(
            _CRITICAL, "`gpuid check` tries the store. Changes are held in memory until it accepts writes again."
        ),
        _K.STORE_DAMAGED: Kind(_WARNING, "Recover what the files hold or delete them; gpuid never does."),
        _K.NO_LEADER: Kind(
            _CRITICAL, "Start a collector that can reach the store: without one nothing is recorded or delivered."
        ),
        _K.SINK_FAILING: Kind(
            _WARNING, "`gpuid check` tries the sink. Its records wait in the outbox and are sent when it accepts them."
        ),
        _K.SINK_BEHIND: Kind(_WARNING, "See `gpuid outbox` for its backlog; the receiver takes batches too slowly."),
        _K.DEAD_LETTERS: Kind(
            _WARNING,
            "`gpuid outbox letters` lists the rejected batches, `gpuid outbox replay` sends them again.",
        ),
        _K.CLUSTER_STARTING: Kind(_INFO, "Wait for the first response; `{check}` shows what it waits for."),
        _K.CLUSTER_BAD_CONTEXT: Kind(_CRITICAL, "Correct the context in the kubeconfig; `{check}` tries it."),
        _K.CLUSTER_CREDENTIAL_PLUGIN_MISSING: Kind(
            _CRITICAL, "Install the context's credential plugin where gpuid runs; `{check}` tries it."
        ),
        _K.CLUSTER_CREDENTIAL_PLUGIN_FAILED: Kind(_CRITICAL, _PLUGIN),
        _K.CLUSTER_UNAUTHORIZED: Kind(_CRITICAL, _CREDENTIALS),
        _K.CLUSTER_FORBIDDEN: Kind(
            _CRITICAL, "`{check}` names the right that is missing, and `gpuid grant` makes the role that has it."
        ),
        _K.CLUSTER_UNREACHABLE: Kind(
            _CRITICAL, "Check the network and the API server; `{check}` tries to connect. What was last known is shown."
        ),
        _K.CLUSTER_SERVER_ERROR: Kind(_CRITICAL, "Look at the API server's own log; `{check}` shows what it answers."),
        _K.CLUSTER_LIMIT_EXCEEDED: Kind(
            _CRITICAL, "Raise the limit that is named in the configuration, if the cluster is meant to be so large."
        ),
        _K.CLUSTER_UNOWNED: Kind(
            _CRITICAL,
            "Start the shard that should read it, and give all shards the same --total-shards and the same clusters."
            " What was last known is shown.",
        ),
        _K.CLUSTER_DUPLICATE: Kind(_WARNING, "Remove one of the two from the configuration."),
        _K.CLUSTER_NOT_LISTED: Kind(_INFO, "Wait until all of its nodes and pods are listed."),
        _K.CLUSTER_STALE: Kind(
            _WARNING, "Its watches may be stuck behind a proxy; `{check}` lists and watches as gpuid does."
        ),
        _K.CLUSTER_UNREAD: Kind(
            _CRITICAL, "`{check}` reads one of its nodes and says what fails.", NodeCondition.UNREAD
        ),
        _K.NO_MATCHING_NODES: Kind(_CRITICAL, "Correct node_selector in the configuration."),
        _K.NO_GPU_PODS: Kind(
            _CRITICAL, "`{check}` shows which preset would fit; set it in the configuration.", NodeCondition.UNREAD
        ),
        _K.SOURCE_WITHOUT_PODS: Kind(_WARNING, "`{check}` shows which preset would fit; correct or remove the source."),
        _K.RESEMBLANCE: Kind(
            _WARNING,
            "All of them are published. If they are one cluster, remove one from the configuration, or let both verify"
            " the API server at the same address; if not, one of them copies the other.",
        ),
        _K.SLICES_UNSEEN: Kind(_WARNING, "`{check}` names the right to watch ResourceSlices, if that is missing."),
        _K.LABELS_FAILING: Kind(_WARNING, "`{check}` names the right to patch nodes, if that is missing."),
        _K.NODE_FAILING: Kind(
            _WARNING,
            "Run nvidia-smi in the pod that is read; `{check}` does. The last reading is shown.",
            NodeCondition.FAILING,
        ),
        _K.NODE_UNREAD: Kind(
            _WARNING,
            "See why the GPU pod is not there or not ready: kubectl get pods -o wide. The last reading is shown.",
            NodeCondition.UNREAD,
        ),
        _K.NODE_PENDING: Kind(_INFO, "Wait for the first reading.", NodeCondition.UNREAD),
        _K.NODE_OVERDUE: Kind(
            _WARNING,
            "The limits of the cluster (exec_concurrency, exec_timeout) may be too low for the number of its nodes.",
            NodeCondition.OVERDUE,
        ),
        _K.GPU_MISSING: Kind(
            _WARNING,
            "Look for Xid 79 in the node's kernel log, restart the node, and check the seat that is named.",
            NodeCondition.MISSING,
        ),
        _K.GPU_LOST: Kind(
            _WARNING,
            "Look at the node's kernel log for the GPU's last Xid and restart the node; if that does not help, pull"
            " the board.",
            NodeCondition.LOST,
        ),
        _K.GPU_DEGRADED: Kind(_WARNING, "", NodeCondition.DEGRADED),
        _K.GPU_MARKED_RMA: Kind(
            _INFO, "Pull the board, or remove the mark with `gpuid unmark`.", NodeCondition.MARKED_RMA
        ),
        _K.CONFLICT: Kind(
            _WARNING,
            "Two nodes report the same GPU: look for a cloned machine, a copied log or two boards with one serial.",
            NodeCondition.CONFLICT,
        ),
        _K.CLAIM: Kind(
            _INFO, "Wait for the next reading of the node that had it first; it settles the claim.", NodeCondition.CLAIM
        ),
    }
)

# What concerns all that is known, whatever is wrong with it: it stops the history or the deliveries.
OF_ALL = frozenset({_K.STORE_DOWN, _K.NO_LEADER, _K.SINK_FAILING})

# The kind of problem that a cluster has in each state but UP.
DOWN: Mapping[ClusterState, ProblemKind] = MappingProxyType(
    {state: ProblemKind(f"cluster_{state}") for state in ClusterState if state is not ClusterState.UP}
)

_UNREAD_NODES = frozenset({_K.NODE_FAILING, _K.NODE_UNREAD, _K.NODE_PENDING, _K.NODE_OVERDUE})
_UNREAD_CLUSTER = _UNREAD_NODES | {
    _K.CLUSTER_UNREAD,
    _K.NO_GPU_PODS,
    _K.NO_MATCHING_NODES,
    _K.SOURCE_WITHOUT_PODS,
    _K.CLUSTER_NOT_LISTED,
    _K.CLUSTER_STALE,
    _K.SLICES_UNSEEN,
    _K.LABELS_FAILING,
}
# What each cause explains in the same cluster; a kind is swallowed by the first cause that explains it.
CAUSES: Mapping[ProblemKind, frozenset[ProblemKind]] = MappingProxyType(
    {
        **dict.fromkeys(DOWN.values(), _UNREAD_CLUSTER),
        _K.NO_GPU_PODS: _UNREAD_NODES | {_K.CLUSTER_UNREAD, _K.SOURCE_WITHOUT_PODS},
        _K.CLUSTER_UNREAD: _UNREAD_NODES,
    }
)
