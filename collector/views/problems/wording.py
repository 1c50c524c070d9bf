"""Problems in words: a sentence for a title, the reason as what failed gave it, the remedy, and where to look."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from collector.health import Level
from collector.marks import MarkKind
from collector.model import UNREAD_REASONS, Place, ReadFailure, UnreadReason
from collector.text import counted, natural_key, shell_word
from collector.views.humanize import UNREAD_WORDS
from collector.views.paths import address, anchor, cluster_url, node_url
from collector.views.problems.kinds import KINDS, NodeCondition, ProblemKind
from collector.views.problems.node_troubles import describe_attempts
from collector.views.problems.trouble import TroubleRow

__all__ = ["problem_id", "reason", "remedy", "title", "url"]

MAX_NAMED_CLUSTERS = 3  # in a title
MAX_SHOWN_REASONS = 3

_K = ProblemKind
# What is said of one cluster, and of several.
_OF_CLUSTERS: Mapping[ProblemKind, tuple[str, str]] = MappingProxyType(
    {
        _K.CLUSTER_STARTING: ("is starting", "are starting"),
        _K.CLUSTER_BAD_CONTEXT: ("has an unusable kubeconfig context", "have unusable kubeconfig contexts"),
        _K.CLUSTER_CREDENTIAL_PLUGIN_MISSING: (
            "needs a credential plugin that is not installed",
            "need a credential plugin that is not installed",
        ),
        _K.CLUSTER_CREDENTIAL_PLUGIN_FAILED: ("has a failing credential plugin", "have a failing credential plugin"),
        _K.CLUSTER_UNAUTHORIZED: ("rejects the credentials", "reject the credentials"),
        _K.CLUSTER_FORBIDDEN: ("denies a required permission", "deny a required permission"),
        _K.CLUSTER_UNREACHABLE: ("is unreachable", "are unreachable"),
        _K.CLUSTER_SERVER_ERROR: ("responds with errors", "respond with errors"),
        _K.CLUSTER_LIMIT_EXCEEDED: ("exceeds a limit of the configuration", "exceed a limit of the configuration"),
        _K.CLUSTER_UNOWNED: ("is read by no shard", "are read by no shard"),
        _K.CLUSTER_DUPLICATE: ("is skipped: it is configured twice", "are skipped: they are configured twice"),
        _K.CLUSTER_NOT_LISTED: ("has not been listed completely yet", "have not been listed completely yet"),
        _K.CLUSTER_STALE: ("has not been confirmed as current", "have not been confirmed as current"),
        _K.CLUSTER_UNREAD: ("has no GPU node that can be read", "have no GPU node that can be read"),
        _K.NO_MATCHING_NODES: ("has no matching nodes", "have no matching nodes"),
        _K.NO_GPU_PODS: ("has no GPU pods", "have no GPU pods"),
        _K.RESEMBLANCE: ("may be one cluster", "may be one cluster"),
    }
)
_NEEDS = MappingProxyType({Level.REPLACE: "replacement", Level.RESET: "a reset or drain"})
_LEVEL_REMEDIES = MappingProxyType(
    {
        Level.REPLACE: "Drain the node, and run NVIDIA's field diagnostic or open an RMA for the board.",
        Level.RESET: "Drain the node, then reset the GPU (nvidia-smi -r) or reboot the node.",
    }
)


def problem_id(row: TroubleRow) -> str:
    """Return what stays the same while the trouble of a row lasts."""
    return f"{row.kind}:{row.variant}" if row.variant else row.kind.value


def title(row: TroubleRow) -> str:
    """Return what is wrong as a whole sentence."""
    if row.kind in _OF_CLUSTERS:
        why = f": {UNREAD_WORDS[_unread_reason(row.variant)]}" if row.kind is _K.CLUSTER_UNREAD and row.variant else ""
        return f"{_clusters(row)} {_OF_CLUSTERS[row.kind][len(row.clusters) > 1]}{why}"
    return _TITLES[row.kind](row)


def reason(row: TroubleRow) -> str:
    """Return why, in the words of what failed; the most frequent reasons of many, with how many have them."""
    if row.kind is _K.GPU_MISSING and row.nodes_total > 1:
        return ""  # how many each node has is no reason
    told = row.reasons.most_common(MAX_SHOWN_REASONS)
    texts = [text for text, _count in told]
    only_of_some = bool(told) and row.kind is _K.GPU_LOST and told[0][1] < row.count
    if len(row.reasons) > 1 or only_of_some:
        noun = "GPU" if row.kind.startswith("gpu_") else "node" if row.nodes_total else "cluster"
        several = (len(row.clusters) if noun == "cluster" else row.count) > 1
        texts = [f"{text} ({counted(count, noun)})" if several else text for text, count in told]
        if len(row.reasons) > len(told):
            texts.append("…")
    if row.nodes_total == 1 and (tried := describe_attempts(row.nodes[0].tries, row.nodes[0].next_try)):
        texts.append(tried)
    return "; ".join(texts)


def remedy(row: TroubleRow) -> str:
    """Return what to do."""
    if row.kind is _K.GPU_DEGRADED:
        return _LEVEL_REMEDIES[Level(row.variant)]
    if row.kind is _K.CLUSTER_UNREAD and row.variant == ReadFailure.FORBIDDEN:
        row_remedy = KINDS[_K.CLUSTER_FORBIDDEN].remedy
    else:
        row_remedy = KINDS[row.kind].remedy
    cluster = next(iter(row.clusters)) if len(row.clusters) == 1 else ""
    check = f"gpuid check --cluster {shell_word(cluster)}" if cluster else "gpuid check"
    return row_remedy.replace("{check}", check)


def url(row: TroubleRow) -> str:
    """Return the path of the page that shows more: of the node, of the cluster, or of all that have the problem."""
    condition = KINDS[row.kind].nodes
    cluster = next(iter(row.clusters)) if len(row.clusters) == 1 else ""
    if row.kind in (_K.STORE_DOWN, _K.STORE_DAMAGED, _K.NO_LEADER):
        return "/changes"
    if row.nodes_total == 1:
        return node_url(row.nodes[0].place)
    if condition is NodeCondition.DEGRADED:
        return address("/health", {"cluster": cluster, "level": row.variant})
    if condition is NodeCondition.MARKED_RMA:
        return address("/health", {"cluster": cluster, "mark": MarkKind.RMA})
    if cluster:
        return address(cluster_url(cluster), {"show": condition})
    return f"/problems#{anchor(problem_id(row))}"


def _clusters(row: TroubleRow) -> str:
    names = sorted(row.clusters, key=natural_key)
    if len(names) > MAX_NAMED_CLUSTERS:
        return counted(len(names), "cluster")
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _of_clusters(row: TroubleRow) -> str:
    return (
        f"of {next(iter(row.clusters))}"
        if len(row.clusters) == 1
        else f"across {counted(len(row.clusters), 'cluster')}"
    )


def _nodes(row: TroubleRow) -> str:
    """Return which nodes: the only one by its name, else how many of how many clusters."""
    if row.nodes_total == 1:
        place: Place = row.nodes[0].place
        return f"{place.node} ({place.cluster})"
    return f"{counted(row.nodes_total, 'node')} {_of_clusters(row)}"


def _unread_reason(variant: str) -> UnreadReason:
    return next(reason for reason in UNREAD_REASONS if reason == variant)


def _gpus(row: TroubleRow) -> str:
    return counted(row.count, "GPU")


def _verb(row: TroubleRow, one: str, several: str) -> str:
    return one if row.count == 1 else several


def _labels(row: TroubleRow) -> str:
    what = "Labels that another client keeps changing" if row.variant else "Labels that cannot be written"
    return f"{what} on {counted(row.count, 'node')} {_of_clusters(row)}"


def _unreadable(row: TroubleRow) -> str:
    return f"{_nodes(row)} {_verb(row, 'is', 'are')} unreadable: {UNREAD_WORDS[_unread_reason(row.variant)]}"


_TITLES: Mapping[ProblemKind, Callable[[TroubleRow], str]] = MappingProxyType(
    {
        _K.CONFIG_REJECTED: lambda row: f"The configuration file {'is unreadable' if row.variant else 'was rejected'}",
        _K.CONFIG_RESTART: lambda _row: "Changes of the configuration wait for a restart",
        _K.STORE_DOWN: lambda _row: "The store does not accept writes; changes are held in memory",
        _K.STORE_DAMAGED: lambda _row: "The store was damaged and began a new history",
        _K.NO_LEADER: lambda _row: "No collector records into the store or delivers to the sinks",
        _K.SINK_FAILING: lambda row: f"The sink {row.variant} is failing",
        _K.SINK_BEHIND: lambda row: f"The sink {row.variant} is behind",
        _K.DEAD_LETTERS: lambda row: f"The sink {row.variant} has {counted(row.count, 'dead letter')}",
        _K.SOURCE_WITHOUT_PODS: lambda row: f"The source {row.variant} has no pods in {_clusters(row)}",
        _K.SLICES_UNSEEN: lambda row: (
            f"ResourceSlices {'are no longer seen' if row.variant else 'cannot be watched'} in {_clusters(row)}"
        ),
        _K.LABELS_FAILING: _labels,
        _K.NODE_FAILING: _unreadable,
        _K.NODE_UNREAD: _unreadable,
        _K.NODE_PENDING: lambda row: f"{_nodes(row)} {_verb(row, 'waits', 'wait')} for the first reading",
        _K.NODE_OVERDUE: lambda row: f"{_nodes(row)} {_verb(row, 'is', 'are')} overdue for a reading",
        _K.GPU_MISSING: lambda row: f"{_gpus(row)} missing on {_nodes(row)}",
        _K.GPU_LOST: lambda row: f"{_gpus(row)} on {_nodes(row)} {_verb(row, 'does', 'do')} not answer",
        _K.GPU_DEGRADED: lambda row: (
            f"{_gpus(row)} on {_nodes(row)} {_verb(row, 'needs', 'need')} {_NEEDS[Level(row.variant)]}"
        ),
        _K.GPU_MARKED_RMA: lambda row: f"{_gpus(row)} marked rma in service on {_nodes(row)}",
        _K.CONFLICT: lambda row: f"{_gpus(row)} confirmed in two places at once: {_nodes(row)}",
        _K.CLAIM: lambda row: f"{_gpus(row)} reported by two nodes, being verified: {_nodes(row)}",
    }
)
