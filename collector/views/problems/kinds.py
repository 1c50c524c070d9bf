"""The kinds of problems: severity, causes and remedy of each."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from collector.model import ClusterState

__all__ = ["CAUSES", "DOWN", "KINDS", "OF_ALL", "Kind", "NodeCondition", "ProblemKind", "Severity"]


class Severity(StrEnum):
    """The severity of a problem, in the terms of Prometheus alerts; worst first."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class NodeCondition(StrEnum):
    """Problems of a node by which the cluster's page filters."""

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
    """Kinds of problems: a closed set."""

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
    remedy: str  # {check} is replaced by the command that checks the clusters
    nodes: NodeCondition | None = None  # filter for affected nodes on a cluster's page


_K = ProblemKind
_CRITICAL, _WARNING, _INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO
_CREDENTIALS = "Renew the credentials of the kubeconfig context; `{check}` shows the API server's response."
_PLUGIN = "Run the context's credential plugin manually where gpuid runs; `{check}` runs it as gpuid does."

KINDS: Mapping[ProblemKind, Kind] = MappingProxyType(
    {
        _K.CONFIG_REJECTED: Kind(
            _WARNING,
            "Correct the file; gpuid loads it as soon as it is valid. Until then the previous configuration stays in"
            " effect, and the next start would fail.",
        ),
        _K.CONFIG_RESTART: Kind(_INFO, "Restart gpuid. All other changes are in effect."),
        _K.STORE_DOWN: Kind(
            _CRITICAL, "`gpuid check` tests the store. Changes are kept in memory until it accepts writes again."
        ),
        _K.STORE_DAMAGED: Kind(_WARNING, "Recover data from the files or delete them; gpuid does neither."),
        _K.NO_LEADER: Kind(
            _CRITICAL, "Start a collector that can reach the store: without one, nothing is recorded or delivered."
        ),
        _K.SINK_FAILING: Kind(
            _WARNING, "`gpuid check` tests the sink. Its records stay in the outbox and are sent when it accepts them."
        ),
        _K.SINK_BEHIND: Kind(_WARNING, "See `gpuid outbox` for its backlog; the receiver accepts batches too slowly."),
        _K.DEAD_LETTERS: Kind(
            _WARNING,
            "`gpuid outbox letters` lists the rejected batches, `gpuid outbox replay` sends them again.",
        ),
        _K.CLUSTER_STARTING: Kind(_INFO, "Wait for the first response; `{check}` shows what is pending."),
        _K.CLUSTER_BAD_CONTEXT: Kind(_CRITICAL, "Correct the context in the kubeconfig; `{check}` tests it."),
        _K.CLUSTER_CREDENTIAL_PLUGIN_MISSING: Kind(
            _CRITICAL, "Install the context's credential plugin where gpuid runs; `{check}` tests it."
        ),
        _K.CLUSTER_CREDENTIAL_PLUGIN_FAILED: Kind(_CRITICAL, _PLUGIN),
        _K.CLUSTER_UNAUTHORIZED: Kind(_CRITICAL, _CREDENTIALS),
        _K.CLUSTER_FORBIDDEN: Kind(
            _CRITICAL, "`{check}` names the missing right, and `gpuid grant` creates a role that has it."
        ),
        _K.CLUSTER_UNREACHABLE: Kind(
            _CRITICAL,
            "Check the network and the API server; `{check}` connects. The last known state is shown.",
        ),
        _K.CLUSTER_SERVER_ERROR: Kind(_CRITICAL, "Look at the API server's log; `{check}` shows its response."),
        _K.CLUSTER_LIMIT_EXCEEDED: Kind(
            _CRITICAL, "Raise the named limit in the configuration if the cluster is meant to be this large."
        ),
        _K.CLUSTER_UNOWNED: Kind(
            _CRITICAL,
            "Start the shard that should read it, and give all shards the same --total-shards and the same clusters."
            " What was last known is shown.",
        ),
        _K.CLUSTER_DUPLICATE: Kind(_WARNING, "Remove one of them from the configuration."),
        _K.CLUSTER_NOT_LISTED: Kind(_INFO, "Wait until all of its nodes and pods are listed."),
        _K.CLUSTER_STALE: Kind(
            _WARNING, "Its watches may be stuck behind a proxy; `{check}` lists and watches like gpuid."
        ),
        _K.CLUSTER_UNREAD: Kind(
            _CRITICAL, "`{check}` reads one of its nodes and says what fails.", NodeCondition.UNREAD
        ),
        _K.NO_MATCHING_NODES: Kind(_CRITICAL, "Correct node_selector in the configuration."),
        _K.NO_GPU_PODS: Kind(
            _CRITICAL, "`{check}` suggests a preset; set it in the configuration.", NodeCondition.UNREAD
        ),
        _K.SOURCE_WITHOUT_PODS: Kind(_WARNING, "`{check}` suggests a preset; correct or remove the source."),
        _K.RESEMBLANCE: Kind(
            _WARNING,
            "All of them are published. If they are one cluster, remove one from the configuration, or have both verify"
            " the API server at the same address; if not, one of them copies the other.",
        ),
        _K.SLICES_UNSEEN: Kind(_WARNING, "`{check}` reports whether the right to watch ResourceSlices is missing."),
        _K.LABELS_FAILING: Kind(_WARNING, "`{check}` reports whether the right to patch nodes is missing."),
        _K.NODE_FAILING: Kind(
            _WARNING,
            "Run nvidia-smi in the pod that is read; `{check}` does. The last reading is shown.",
            NodeCondition.FAILING,
        ),
        _K.NODE_UNREAD: Kind(
            _WARNING,
            "Find out why the GPU pod is absent or not ready: kubectl get pods -o wide. The last reading is shown.",
            NodeCondition.UNREAD,
        ),
        _K.NODE_PENDING: Kind(_INFO, "Wait for the first reading.", NodeCondition.UNREAD),
        _K.NODE_OVERDUE: Kind(
            _WARNING,
            "The limits of the cluster (exec_concurrency, exec_timeout) may be too low for its number of nodes.",
            NodeCondition.OVERDUE,
        ),
        _K.GPU_MISSING: Kind(
            _WARNING,
            "Look for Xid 79 in the node's kernel log, restart the node, and check the named seat.",
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
            "Two nodes report the same GPU: look for a cloned machine, a copied log or boards with the same serial.",
            NodeCondition.CONFLICT,
        ),
        _K.CLAIM: Kind(
            _INFO,
            "Wait for the next reading of the node that had it first; it settles the claim.",
            NodeCondition.CLAIM,
        ),
    }
)

# These affect the whole fleet: they stop the history or the deliveries.
OF_ALL = frozenset({_K.STORE_DOWN, _K.NO_LEADER, _K.SINK_FAILING})

# The kind of problem for each cluster state except UP.
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
# Consequences of each cause in the same cluster; a kind is absorbed by the first cause that explains it.
CAUSES: Mapping[ProblemKind, frozenset[ProblemKind]] = MappingProxyType(
    {
        **dict.fromkeys(DOWN.values(), _UNREAD_CLUSTER),
        _K.NO_GPU_PODS: _UNREAD_NODES | {_K.CLUSTER_UNREAD, _K.SOURCE_WITHOUT_PODS},
        _K.CLUSTER_UNREAD: _UNREAD_NODES,
    }
)
