"""The table of all metric families, and the rendering of a node as samples.

docs/metrics.md, dashboards and alert rules are checked against the table. Nodes are rendered here because
prometheus-client renders every series on every scrape, which takes 10 seconds for 800,000 GPUs.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from collector.exposition.gpu_counts import Counts
from collector.health import KINDS_HELD, Condition, Health, degradations, level
from collector.marks import MarkedGpu
from collector.model import Gpu, NodeState

__all__ = [
    "FAMILIES",
    "NODE_FAMILIES",
    "Family",
    "escape",
    "gpu_lines",
    "header",
    "label_names",
    "render",
    "render_marks",
]


_SPECIAL = re.compile(r'[\\"\x00-\x1f\x7f]')
_ESCAPES = {"\\": r"\\", '"': r"\"", "\n": r"\n"}


class Family(NamedTuple):
    """One metric family as users see it; the label `cluster` stands for its configured name."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    help: str


NODE_FAMILIES = (
    Family(
        "gpuid_gpu_info",
        "gauge",
        ("cluster", "node", "serial", "uuid", "model", "chassis"),
        "A GPU present in a node; always 1.",
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
        "GPUs of a node by state: found by the last reading, lost (only if any do not respond), capacity, and "
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
        "A virtual GPU present in a node, a share of one of its host's boards; always 1.",
    ),
    Family(
        "gpuid_gpu_last_reported_timestamp_seconds",
        "gauge",
        ("cluster", "node", "serial", "uuid", "field"),
        "When a GPU last reported a field, such as its serial, that is no longer reported; the last value is kept.",
    ),
    Family(
        "gpuid_gpu_degraded",
        "gauge",
        ("cluster", "node", "serial", "uuid", "reason", "level"),
        "A reason why a GPU is degraded, and the action: replace, or reset (a reset, or a drain and a reboot);"
        " always 1.",
    ),
    Family(
        "gpuid_gpu_remapped_rows",
        "gauge",
        ("cluster", "node", "serial", "uuid", "kind"),
        "Remapped rows of a GPU's memory by kind: correctable and uncorrectable, after the error that caused them, and"
        " inactive remappings of either; absent if zero.",
    ),
    Family(
        "gpuid_gpu_retired_pages",
        "gauge",
        ("cluster", "node", "serial", "uuid", "cause"),
        "Retired pages of a GPU's memory, for single-bit or double-bit errors; absent if zero.",
    ),
    Family(
        "gpuid_gpu_ecc_errors",
        "gauge",
        ("cluster", "node", "serial", "uuid", "memory", "kind"),
        "Lifetime ECC errors of a GPU by memory (dram, sram) and kind (correctable, uncorrectable); absent if zero.",
    ),
)

# The last of NODE_FAMILIES, on health: the fields of Health that are counts, and their labels.
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
    "Known GPUs by model and state, each in one state: degraded (including lost ones), unreadable (present, but the"
    " node or cluster cannot be read), healthy, or missing (of the capacity, neither found nor lost). Healthy is always"
    " present for each model, the others if not zero.",
)

_MARKS = Family(
    "gpuid_gpu_mark_info",
    "gauge",
    ("serial", "uuid", "mark", "ticket"),
    "A marked GPU (rma, quarantine or watch), whether or not it is present; always 1.",
)

# All families except those of nodes, gpuid_gpus and the marks are kept by prometheus-client, created in `metrics`.
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
        "When an event, bookmark, list or end of a watch last confirmed that the view of the cluster is current.",
    ),
    Family(
        "gpuid_credential_expiry_timestamp_seconds",
        "gauge",
        ("cluster",),
        "When the first of a cluster's credentials expires that gpuid cannot renew itself: the client certificate of"
        " the kubeconfig or its exec plugin, or a token with an expiry time. Absent if none expires; token files, and"
        " tokens of exec plugins and OIDC, are renewed. A service account's token counts unless gpuid renews it in"
        " time and in its file.",
    ),
    Family(
        "gpuid_credential_lifetime_seconds",
        "gauge",
        ("cluster",),
        "The credential's total lifetime; absent if unknown.",
    ),
    Family(
        "gpuid_cluster_resemblances",
        "gauge",
        ("cluster",),
        "Other clusters that show nodes with the same UIDs, without proof that they are the same cluster.",
    ),
    Family("gpuid_gpu_conflicts", "gauge", ("cluster",), "GPUs confirmed in two places."),
    Family(
        "gpuid_gpu_claims",
        "gauge",
        ("cluster",),
        "GPUs reported by a second node before the first one has been verified; published in both.",
    ),
    _GPUS,
    _MARKS,
    Family("gpuid_gpu_moves_total", "counter", ("cluster",), "GPUs that arrived from another node."),
    Family(
        "gpuid_gpu_health_changes_dropped_total",
        "counter",
        ("cluster",),
        "GPU health changes not recorded because there were too many; absent if none.",
    ),
    Family("gpuid_read_success_total", "counter", ("cluster",), "Successful readings of nodes."),
    Family("gpuid_read_failure_total", "counter", ("cluster", "reason"), "Failed readings of nodes."),
    Family("gpuid_read_failing_nodes", "gauge", ("cluster", "reason"), "Nodes whose last reading failed."),
    Family(
        "gpuid_gpu_nodes",
        "gauge",
        ("cluster",),
        "GPU nodes: nodes with GPUs in Kubernetes, and nodes with a GPU pod.",
    ),
    Family(
        "gpuid_unread_nodes",
        "gauge",
        ("cluster", "reason"),
        "GPU nodes that cannot be read now or have not been read yet, including those of gpuid_read_failing_nodes.",
    ),
    Family(
        "gpuid_source_pods",
        "gauge",
        ("cluster", "source"),
        "Pods selected by a source that have its container; the source is its namespace and selector.",
    ),
    Family(
        "gpuid_resource_slices_watched",
        "gauge",
        ("cluster",),
        "1 while the ResourceSlices of the NVIDIA DRA driver are watched, 0 while they are not visible; absent if the "
        "API server has none.",
    ),
    Family(
        "gpuid_read_duration_seconds",
        "histogram",
        ("cluster",),
        "Time from the start of the exec or log request to the applied reading.",
    ),
    Family(
        "gpuid_node_label_writes_total",
        "counter",
        ("cluster",),
        "Successful writes of node labels; absent unless the cluster has `labels = true`.",
    ),
    Family(
        "gpuid_node_label_failures_total",
        "counter",
        ("cluster", "reason"),
        "Failed writes of node labels, and changes to them by another client (contested).",
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
        "When the first of a sink's credentials expires that gpuid cannot renew itself: its client certificate, or a"
        " token with an expiry time in an environment variable. Absent if none expires.",
    ),
    Family(
        "gpuid_sink_credential_lifetime_seconds",
        "gauge",
        ("sink",),
        "The credential's total lifetime; absent if unknown.",
    ),
    Family("gpuid_store_up", "gauge", (), "Whether the store accepts writes; absent without a store."),
    Family("gpuid_store_pending_records", "gauge", (), "Changes and records waiting in memory for the store."),
    Family(
        "gpuid_store_lost_records_total",
        "counter",
        (),
        "Changes dropped because the store was unavailable for too long; the resulting state is recorded.",
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
        "Whether this collector or the leader it stands by for records and delivers; absent without a store.",
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
        "Damaged store files that were set aside and are still in its folder; 0 with PostgreSQL.",
    ),
    Family(
        "gpuid_server_certificate_expiry_timestamp_seconds",
        "gauge",
        (),
        "When the collector's server certificate expires; absent without HTTPS.",
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
        "Whether the configuration file as last read is in effect; 0 if it was rejected or cannot be read.",
    ),
    Family(
        "gpuid_config_last_reload_success_timestamp_seconds",
        "gauge",
        (),
        "When the current configuration was loaded, at start or later.",
    ),
    Family(
        "gpuid_config_restart_required",
        "gauge",
        (),
        "Whether changes to [server], [metrics] or [store] in the configuration file require a restart.",
    ),
    Family("gpuid_scrape_body_bytes", "histogram", ("encoding",), "Size of scrape responses as sent."),
    Family("gpuid_scrape_duration_seconds", "histogram", (), "Time to prepare a scrape response."),
    Family(
        "gpuid_exposition_age_seconds",
        "gauge",
        (),
        "Age of the oldest change not yet included in this scrape; 0 if all are.",
    ),
    Family("gpuid_build_info", "gauge", ("version",), "The collector's version; always 1."),
)


def render(state: NodeState, node_labels: Sequence[tuple[str, str]], cluster_label: str) -> tuple[bytes, ...]:
    """Return the lines of a node, one block of bytes per family in NODE_FAMILIES, in order.

    `node_labels` are pairs of (Kubernetes label, Prometheus label), as `label_names` returns them.
    """
    node, gpus = state.node, state.gpus
    cluster, name = _escaped_all((state.place.cluster, state.place.node))
    where = f'{{{cluster_label}="{cluster}",node="{name}"'
    virtual = reported = info = read = ""
    if virtual_gpus := [gpu for gpu in gpus if gpu.virtual]:
        gpus = tuple([gpu for gpu in gpus if not gpu.virtual])
        virtual = "".join(
            [
                f'gpuid_vgpu_info{where},uuid="{escape(gpu.uuid)}",model="{escape(gpu.model)}"}} 1\n'
                for gpu in virtual_gpus
            ]
        )
    if with_last_known := [gpu for gpu in state.gpus if gpu.last_known]:
        reported = "".join(
            [
                f'gpuid_gpu_last_reported_timestamp_seconds{where},serial="{escape(gpu.serial)}",'
                f'uuid="{escape(gpu.uuid)}",field="{field}"}} {time:.3f}\n'
                for gpu in with_last_known
                for field, time in gpu.last_known_facts
            ]
        )
    counts = "".join(
        [
            f'gpuid_node_gpus{where},state="{state}"}} {count}\n'
            for state, count in (
                ("found", state.found),
                ("lost", state.lost or None),
                ("capacity", node.capacity),
                ("allocatable", node.allocatable),
            )
            if count is not None
        ]
    )
    if state.time is not None:
        values = dict(node.labels) if node_labels else {}
        machine, provider, chassis, driver, cuda, *texts = _escaped_all(
            (
                node.machine,
                node.provider_id,
                state.chassis,
                state.driver_version or "",
                state.cuda_version or "",
                *[values.get(label, "") for label, _ in node_labels],
            )
        )
        labels = "".join([f',{name}="{text}"' for (_, name), text in zip(node_labels, texts, strict=True)])
        info = (
            f'gpuid_node_info{where},machine="{machine}",provider_id="{provider}",chassis="{chassis}",'
            f'driver_version="{driver}",cuda_version="{cuda}"{labels}}} 1\n'
        )
        read = f"gpuid_node_read_timestamp_seconds{where}}} {state.time:.3f}\n"
    lines = (_gpu_lines(gpus, where), info, counts, read, virtual, reported)
    encoded = tuple([text.encode("utf-8", "replace") for text in lines])
    return encoded + (_NO_HEALTH_LINES if state.uniform and _is_quiet(state.gpus[0].health) else _health(state, where))


def _gpu_lines(gpus: Sequence[Gpu], where: str) -> str:
    """Return the lines of GPUs that are not virtual."""
    # Nearly always one model and chassis for all, and nothing to escape: then each GPU adds two quotes.
    if len(kinds := {(gpu.model, gpu.chassis) for gpu in gpus}) == 1:
        ((model, chassis),) = kinds
        ids = [f'{gpu.serial or ""}",uuid="{gpu.uuid}' for gpu in gpus]
        text = "".join(ids)
        if text.isprintable() and "\\" not in text and text.count('"') == 2 * len(ids):
            start = f'gpuid_gpu_info{where},serial="'
            end = f'",model="{escape(model)}",chassis="{escape(chassis)}"}} 1\n'
            return f"{start}{(end + start).join(ids)}{end}"
    return "".join(
        [
            f'gpuid_gpu_info{where},serial="{escape(gpu.serial)}",uuid="{escape(gpu.uuid)}",'
            f'model="{escape(gpu.model)}",chassis="{escape(gpu.chassis)}"}} 1\n'
            for gpu in gpus
        ]
    )


def _escaped_all(values: Sequence[str]) -> Sequence[str]:
    """Return label values escaped; few need it, which one look at all of them shows."""
    text = "".join(values)
    if text.isprintable() and '"' not in text and "\\" not in text:
        return values
    return [escape(value) for value in values]


def gpu_lines(cluster: str, counts: Counts, cluster_label: str) -> bytes:
    """Return the lines of gpuid_gpus for a cluster."""
    return "".join(
        f'gpuid_gpus{{{cluster_label}="{escape(cluster)}",model="{escape(model)}",state="{state}"}} {count}\n'
        for (model, state), count in sorted(counts.items())
    ).encode("utf-8", "replace")


def render_marks(gpus: Iterable[MarkedGpu]) -> bytes:
    """Return the lines of gpuid_gpu_mark_info with their header; empty if no GPU is marked."""
    lines = "".join(
        f'gpuid_gpu_mark_info{{serial="{escape(serial)}",uuid="{escape(uuid)}",mark="{mark.kind}",'
        f'ticket="{escape(mark.ticket)}"}} 1\n'
        for serial, uuid, mark in gpus
    )
    return header(_MARKS) + lines.encode("utf-8", "replace") if lines else b""


def header(family: Family, *, openmetrics: bool = False) -> bytes:
    """Return the header lines of a family; in OpenMetrics a counter's name does not end in `_total` there."""
    name = family.name.removesuffix("_total") if openmetrics and family.kind == "counter" else family.name
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n".encode()


@functools.lru_cache(maxsize=KINDS_HELD)
def _is_quiet(health: Health | None) -> bool:
    """Return whether a GPU that reports this, and is not lost, has no health series."""
    return health is None or (_count_samples(health) is _NO_COUNTS and not degradations(Condition(health)))


def _health(state: NodeState, where: str) -> tuple[bytes, ...]:
    """Return the health lines of a node's GPUs, by family; a healthy GPU has none."""
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
    """Return the line endings for a GPU's non-zero counts, by family of _COUNTS."""
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
    """Return Kubernetes labels with their Prometheus names, as in kube-state-metrics; clashes are numbered."""
    bare = [f"label_{re.sub(r'[^a-zA-Z0-9_]', '_', label)}" for label in labels]

    def numbered() -> Iterator[str]:
        for index, name in enumerate(bare):
            yield f"{name}_conflict{bare[: index + 1].count(name)}" if bare.count(name) > 1 else name

    return list(zip(labels, numbered(), strict=True))


_escaped: Callable[[re.Match[str]], str] = lambda found: _ESCAPES.get(found[0], "\N{REPLACEMENT CHARACTER}")  # noqa: E731
