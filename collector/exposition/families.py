"""The table of all metric families that gpuid publishes, and the rendering of a node as samples of them.

docs/metrics.md, dashboards and alert rules are checked against the table. Nodes are rendered here because
prometheus-client renders every series on every scrape, which takes 10 seconds for 800,000 GPUs.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from collector.exposition.gpu_counts import Counts
from collector.health import KINDS_HELD, Condition, Health, degradations, level
from collector.model import NodeState

__all__ = ["FAMILIES", "NODE_FAMILIES", "Family", "escape", "header", "label_names", "render", "render_gpus"]


_SPECIAL = re.compile(r'[\\"\x00-\x1f\x7f]')
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


class Family(NamedTuple):
    """One metric family as users see it; the label `cluster` stands for the configured name of that label."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    help: str


NODE_FAMILIES = (
    Family(
        "gpuid_gpu_info",
        "gauge",
        ("cluster", "node", "serial", "uuid", "model", "chassis"),
        "A GPU that is present in a node; always 1.",
    ),
    Family(
        "gpuid_node_info",
        "gauge",
        ("cluster", "node", "machine", "provider_id", "chassis", "driver_version", "cuda_version"),
        "A node whose GPUs have been read; always 1.",
    ),
    Family(
        "gpuid_node_gpus",
        "gauge",
        ("cluster", "node", "state"),
        "GPUs of a node by state: found by the last reading, lost (only where any do not answer), capacity, "
        "allocatable (the last two are absent with MIG).",
    ),
    Family(
        "gpuid_node_read_timestamp_seconds",
        "gauge",
        ("cluster", "node"),
        "When the node was last read successfully.",
    ),
    Family(
        "gpuid_vgpu_info",
        "gauge",
        ("cluster", "node", "uuid", "model"),
        "A virtual GPU that is present in a node, a share of a board of its host's; always 1.",
    ),
    Family(
        "gpuid_gpu_last_reported_timestamp_seconds",
        "gauge",
        ("cluster", "node", "serial", "uuid", "field"),
        "When a GPU last reported a field, such as its serial, that it no longer reports; the last known value stays.",
    ),
    Family(
        "gpuid_gpu_degraded",
        "gauge",
        ("cluster", "node", "serial", "uuid", "reason", "level"),
        "A reason why a GPU is degraded, and what it calls for: replace, or reset (a reset, or a drain and a reboot);"
        " always 1.",
    ),
    Family(
        "gpuid_gpu_remapped_rows",
        "gauge",
        ("cluster", "node", "serial", "uuid", "kind"),
        "Remapped rows of a GPU's memory by kind: correctable and uncorrectable, by the error that was the cause, and"
        " inactive remappings of either; absent where zero.",
    ),
    Family(
        "gpuid_gpu_retired_pages",
        "gauge",
        ("cluster", "node", "serial", "uuid", "cause"),
        "Pages of a GPU's memory that were retired for single-bit or double-bit errors; absent where zero.",
    ),
    Family(
        "gpuid_gpu_ecc_errors",
        "gauge",
        ("cluster", "node", "serial", "uuid", "memory", "kind"),
        "ECC errors over a GPU's life by memory (dram, sram) and kind (correctable, uncorrectable); absent where zero.",
    ),
)

# The last of NODE_FAMILIES, of how GPUs are: the fields of Health that are counts, and their own labels.
_COUNTS = (
    (
        "gpuid_gpu_remapped_rows",
        (
            ("remapped_rows_correctable", 'kind="correctable"'),
            ("remapped_rows_uncorrectable", 'kind="uncorrectable"'),
            ("remapped_rows_inactive", 'kind="inactive"'),
        ),
    ),
    (
        "gpuid_gpu_retired_pages",
        (
            ("retired_pages_single_bit", 'cause="single_bit"'),
            ("retired_pages_double_bit", 'cause="double_bit"'),
        ),
    ),
    (
        "gpuid_gpu_ecc_errors",
        (
            ("ecc_sram_correctable", 'memory="sram",kind="correctable"'),
            ("ecc_sram_uncorrectable", 'memory="sram",kind="uncorrectable"'),
            ("ecc_dram_correctable", 'memory="dram",kind="correctable"'),
            ("ecc_dram_uncorrectable", 'memory="dram",kind="uncorrectable"'),
        ),
    ),
)
_HEALTH_FAMILIES = 1 + len(_COUNTS)
_NO_HEALTH_LINES = (b"",) * _HEALTH_FAMILIES
_NO_COUNTS: tuple[tuple[str, ...], ...] = ((),) * len(_COUNTS)

_GPUS = Family(
    "gpuid_gpus",
    "gauge",
    ("cluster", "model", "state"),
    "Known GPUs by model and state, each in one: degraded (lost ones too), unreadable (present, but the node or the"
    " cluster is not read), healthy, or missing (of the capacity, neither found nor lost). Healthy is there for every"
    " model, the others where not zero.",
)

# All but those of nodes and gpuid_gpus are kept by prometheus-client, which `metrics` sets up from these rows.
FAMILIES = (
    *NODE_FAMILIES,
    Family("gpuid_cluster_up", "gauge", ("cluster",), "Whether list and watch of the cluster are healthy."),
    Family(
        "gpuid_cluster_state",
        "gauge",
        ("cluster", "state"),
        "State of the cluster; only the current state has a series, with the value 1.",
    ),
    Family(
        "gpuid_cluster_synced_timestamp_seconds",
        "gauge",
        ("cluster",),
        "When an event, a bookmark, a list or the end of a watch last proved that the view of the cluster is current.",
    ),
    Family(
        "gpuid_credential_expiry_timestamp_seconds",
        "gauge",
        ("cluster",),
        "When the first of a cluster's credentials ends that gpuid cannot renew by itself: the client certificate of"
        " the kubeconfig or of its exec plugin, or a token with an end in it. Absent if none ends; token files, and"
        " tokens of exec plugins and OIDC, are renewed. A service account's token counts unless gpuid renews it in time"
        " and in its file.",
    ),
    Family(
        "gpuid_credential_lifetime_seconds",
        "gauge",
        ("cluster",),
        "The credential's total lifetime; absent if it does not state one.",
    ),
    Family(
        "gpuid_cluster_resemblances",
        "gauge",
        ("cluster",),
        "Other clusters that show nodes with the same uids, without proof that they are the same cluster.",
    ),
    Family("gpuid_gpu_conflicts", "gauge", ("cluster",), "GPUs confirmed in two places."),
    Family(
        "gpuid_gpu_claims",
        "gauge",
        ("cluster",),
        "GPUs reported by a second node while the first has not answered yet; published in both.",
    ),
    _GPUS,
    Family(
        "gpuid_gpu_mark_info",
        "gauge",
        ("serial", "uuid", "mark", "ticket"),
        "A GPU that is marked (rma, quarantine or watch), whether or not it is present; always 1.",
    ),
    Family("gpuid_gpu_moves_total", "counter", ("cluster",), "GPUs that arrived from another node."),
    Family("gpuid_read_success_total", "counter", ("cluster",), "Successful readings of nodes."),
    Family("gpuid_read_failure_total", "counter", ("cluster", "reason"), "Failed readings of nodes."),
    Family("gpuid_read_failing_nodes", "gauge", ("cluster", "reason"), "Nodes whose last reading failed."),
    Family(
        "gpuid_gpu_nodes",
        "gauge",
        ("cluster",),
        "GPU nodes: those that Kubernetes says have GPUs, and those with a GPU pod.",
    ),
    Family(
        "gpuid_unread_nodes",
        "gauge",
        ("cluster", "reason"),
        "GPU nodes that cannot be read now or have not been read yet, those of gpuid_read_failing_nodes included.",
    ),
    Family(
        "gpuid_source_pods",
        "gauge",
        ("cluster", "source"),
        "Pods that a source selects and that have its container; the source is its namespace and selector.",
    ),
    Family(
        "gpuid_resource_slices_watched",
        "gauge",
        ("cluster",),
        "1 while the ResourceSlices of the NVIDIA DRA driver are watched, 0 while they are not seen; absent where the "
        "API server has none.",
    ),
    Family(
        "gpuid_read_duration_seconds",
        "histogram",
        ("cluster",),
        "Time from the start of the exec, or from asking for the log, to the applied reading.",
    ),
    Family(
        "gpuid_node_label_writes_total",
        "counter",
        ("cluster",),
        "Writes of node labels that succeeded; absent unless the cluster has `labels = true`.",
    ),
    Family(
        "gpuid_node_label_failures_total",
        "counter",
        ("cluster", "reason"),
        "Writes of node labels that failed, and changes of them by another client (contested).",
    ),
    Family(
        "gpuid_watch_restarts_total",
        "counter",
        ("cluster", "resource", "reason"),
        "Watches that were restarted.",
    ),
    Family("gpuid_export_success_total", "counter", ("cluster", "sink"), "Records delivered to a sink."),
    Family(
        "gpuid_export_failure_total",
        "counter",
        ("cluster", "sink", "reason"),
        "Records in failed delivery attempts.",
    ),
    Family("gpuid_export_backlog_records", "gauge", ("sink",), "Records waiting to be delivered to a sink."),
    Family(
        "gpuid_export_oldest_timestamp_seconds",
        "gauge",
        ("sink",),
        "Time of the oldest record waiting for a sink; 0 when none is waiting.",
    ),
    Family(
        "gpuid_export_dead_letters",
        "gauge",
        ("sink",),
        "Batches in the dead-letter queue of a sink.",
    ),
    Family(
        "gpuid_sink_credential_expiry_timestamp_seconds",
        "gauge",
        ("sink",),
        "When the first of a sink's credentials ends that gpuid cannot renew by itself: its client certificate, or a"
        " token of an environment variable with an end in it. Absent if none ends.",
    ),
    Family(
        "gpuid_sink_credential_lifetime_seconds",
        "gauge",
        ("sink",),
        "The credential's total lifetime; absent if it does not state one.",
    ),
    Family("gpuid_store_up", "gauge", (), "Whether the store accepts writes; absent without a store."),
    Family("gpuid_store_pending_records", "gauge", (), "Changes and records waiting in memory for the store."),
    Family(
        "gpuid_store_lost_records_total",
        "counter",
        (),
        "Changes dropped because the store was unavailable for too long; their outcome is recorded.",
    ),
    Family(
        "gpuid_store_leader",
        "gauge",
        (),
        "Whether this collector records and delivers; 0 on a standby, absent without a store.",
    ),
    Family(
        "gpuid_store_has_leader",
        "gauge",
        (),
        "Whether this collector or one that it stands by for records and delivers; absent without a store.",
    ),
    Family(
        "gpuid_shard_ordinal",
        "gauge",
        (),
        "Which shard this collector is, counted from 0; absent without shards.",
    ),
    Family(
        "gpuid_total_shards",
        "gauge",
        (),
        "How many shards this collector was started for; absent without shards.",
    ),
    Family(
        "gpuid_cluster_unowned",
        "gauge",
        ("cluster",),
        "A configured cluster that no shard reads, as this collector sees it; always 1. Absent without shards.",
    ),
    Family(
        "gpuid_store_damaged_files",
        "gauge",
        (),
        "Damaged files of the store that were set aside and are still in its folder; 0 with PostgreSQL.",
    ),
    Family(
        "gpuid_server_certificate_expiry_timestamp_seconds",
        "gauge",
        (),
        "When the certificate ends that the collector serves; absent without HTTPS.",
    ),
    Family(
        "gpuid_server_certificate_lifetime_seconds",
        "gauge",
        (),
        "The certificate's total lifetime.",
    ),
    Family(
        "gpuid_config_last_reload_successful",
        "gauge",
        (),
        "Whether the configuration file, as it was last read, is in force; 0 if it was rejected or cannot be read.",
    ),
    Family(
        "gpuid_config_last_reload_success_timestamp_seconds",
        "gauge",
        (),
        "When the configuration in force was loaded, at the start or since.",
    ),
    Family(
        "gpuid_config_restart_required",
        "gauge",
        (),
        "Whether changes of [server], [metrics] or [store] in the configuration file wait for the next start.",
    ),
    Family("gpuid_scrape_body_bytes", "histogram", ("encoding",), "Size of scrape responses as sent."),
    Family("gpuid_scrape_duration_seconds", "histogram", (), "Time to prepare a scrape response."),
    Family(
        "gpuid_exposition_age_seconds",
        "gauge",
        (),
        "How long the oldest change that this scrape does not show yet has waited; 0 if it shows all.",
    ),
    Family("gpuid_build_info", "gauge", ("version",), "The collector's version; always 1."),
)


def render(state: NodeState, node_labels: Sequence[tuple[str, str]], cluster_label: str) -> tuple[bytes, ...]:
    """Return the lines of a node, one block of bytes for each of NODE_FAMILIES, in their order.

    `node_labels` are pairs of (Kubernetes label, Prometheus label), as `label_names` returns them.
    """
    node = state.node
    where = f'{{{cluster_label}="{escape(state.place.cluster)}",node="{escape(state.place.node)}"'
    gpus = "".join(
        f'gpuid_gpu_info{where},serial="{escape(gpu.serial)}",uuid="{escape(gpu.uuid)}",'
        f'model="{escape(gpu.model)}",chassis="{escape(gpu.chassis)}"}} 1\n'
        for gpu in state.gpus
        if not gpu.virtual
    )
    virtual = "".join(
        f'gpuid_vgpu_info{where},uuid="{escape(gpu.uuid)}",model="{escape(gpu.model)}"}} 1\n'
        for gpu in state.gpus
        if gpu.virtual
    )
    reported = "".join(
        f'gpuid_gpu_last_reported_timestamp_seconds{where},serial="{escape(gpu.serial)}",uuid="{escape(gpu.uuid)}",'
        f'field="{field}"}} {time:.3f}\n'
        for gpu in state.gpus
        if gpu.last_known
        for field, time in gpu.last_known_facts
    )
    counts = "".join(
        f'gpuid_node_gpus{where},state="{state}"}} {count}\n'
        for state, count in (
            ("found", state.found),
            ("lost", state.lost or None),
            ("capacity", node.capacity),
            ("allocatable", node.allocatable),
        )
        if count is not None
    )
    info = read = ""
    if state.time is not None:
        values = dict(node.labels)
        labels = "".join(f',{name}="{escape(values.get(label))}"' for label, name in node_labels)
        info = (
            f'gpuid_node_info{where},machine="{escape(node.machine)}",provider_id="{escape(node.provider_id)}",'
            f'chassis="{escape(state.chassis)}",driver_version="{escape(state.driver_version)}",'
            f'cuda_version="{escape(state.cuda_version)}"{labels}}} 1\n'
        )
        read = f"gpuid_node_read_timestamp_seconds{where}}} {state.time:.3f}\n"
    texts = tuple(text.encode("utf-8", "replace") for text in (gpus, info, counts, read, virtual, reported))
    return texts + (_NO_HEALTH_LINES if state.uniform and _is_quiet(state.gpus[0].health) else _health(state, where))


def render_gpus(clusters: Mapping[str, Counts], cluster_label: str) -> bytes:
    """Return the lines of gpuid_gpus with their header; nothing where no GPU is known."""
    lines = "".join(
        f'gpuid_gpus{{{cluster_label}="{escape(cluster)}",model="{escape(model)}",state="{state}"}} {count}\n'
        for cluster, counts in clusters.items()
        for (model, state), count in sorted(counts.items())
    )
    return header(_GPUS) + lines.encode("utf-8", "replace") if lines else b""


def header(family: Family) -> bytes:
    """Return the lines that stand before the samples of a family."""
    return f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n".encode()


@functools.lru_cache(maxsize=KINDS_HELD)
def _is_quiet(health: Health | None) -> bool:
    """Return whether there is nothing to say of a GPU that reports this, and is not lost."""
    return health is None or (_count_samples(health) is _NO_COUNTS and not degradations(Condition(health)))


def _health(state: NodeState, where: str) -> tuple[bytes, ...]:
    """Return the lines of how a node's GPUs are, by family; a healthy GPU has none."""
    lines: list[list[str]] | None = None
    for gpu, since in zip(state.gpus, state.since, strict=True):
        condition = state.condition(gpu, since)
        reasons = degradations(condition)
        counts = _NO_COUNTS if gpu.health is None else _count_samples(gpu.health)
        if not reasons and counts is _NO_COUNTS:
            continue
        lines = lines or [[] for _ in range(_HEALTH_FAMILIES)]
        which = f'{where},serial="{escape(gpu.serial)}",uuid="{escape(gpu.uuid)}",'
        lines[0] += [
            f'gpuid_gpu_degraded{which}reason="{reason}",level="{level(reason, condition)}"}} 1\n' for reason in reasons
        ]
        for (family, _), samples, found in zip(_COUNTS, counts, lines[1:], strict=True):
            found += [f"{family}{which}{sample}" for sample in samples]
    if lines is None:
        return _NO_HEALTH_LINES
    return tuple("".join(one).encode("utf-8", "replace") for one in lines)


@functools.lru_cache(maxsize=KINDS_HELD)
def _count_samples(health: Health) -> tuple[tuple[str, ...], ...]:
    """Return the ends of the lines of a GPU's counts that are not zero, by family of _COUNTS."""
    samples = tuple(
        tuple(f"{labels}}} {count}\n" for field, labels in fields if (count := getattr(health, field)))
        for _, fields in _COUNTS
    )
    return samples if any(samples) else _NO_COUNTS


def escape(value: str | None) -> str:
    r"""Return a label value with `\`, `"` and line feed escaped, other control characters replaced; "" for None."""
    if value is None:
        return ""
    return _SPECIAL.sub(_escaped, value) if _SPECIAL.search(value) else value


def label_names(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return Kubernetes labels with their Prometheus names, made as kube-state-metrics does; clashes are numbered."""
    bare = [f"label_{re.sub(r'[^a-zA-Z0-9_]', '_', label)}" for label in labels]

    def numbered() -> Iterator[str]:
        for index, name in enumerate(bare):
            yield f"{name}_conflict{bare[: index + 1].count(name)}" if bare.count(name) > 1 else name

    return list(zip(labels, numbered(), strict=True))


_escaped: Callable[[re.Match[str]], str] = lambda found: _ESCAPES.get(found[0], "\N{REPLACEMENT CHARACTER}")  # noqa: E731
