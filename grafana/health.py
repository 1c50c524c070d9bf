"""The dashboard of the GPUs' health: which are degraded or marked, which wear, and which moved while degraded."""

from grafana_foundation_sdk.builders.dashboard import Row

from grafana import navigation
from grafana.navigation import CLUSTER, NODE, NODE_OF_SERIES, SERIAL, UUID
from grafana.panels import NONE_IS_GOOD, Column, Panel, Query, bars, curves, figure, listing, mapped, timeline

__all__ = ["HEALTHY_SHARE", "LEVELS", "dashboard"]

LEVELS = mapped({"replace": ("needs replacement", "red"), "reset": ("needs a reset or drain", "orange")})
_DEGRADED_HERE = mapped({"1": ("degraded", "red")})
_ROWS_KEPT = 100  # of tables that would else have a row for each GPU with a single error

_IN = '{cluster=~"$cluster"}'
_CHOSEN = '{cluster=~"$cluster",model=~"$model"}'
_GPU = "max by (cluster, node, serial, uuid)"
_SERIAL_COLUMNS = (Column("serial", "Serial", SERIAL), Column("uuid", "UUID", UUID))
_PLACE_COLUMNS = (Column("cluster", "Cluster", CLUSTER), Column("node", "Node", NODE))

# The model of each GPU, and its mark: once, even while two nodes or two collectors report it.
_MODEL = f"topk by (uuid) (1, max by (uuid, model) (gpuid_gpu_info{_CHOSEN}))"
_MARK = "topk by (uuid) (1, max by (uuid, mark, ticket) (gpuid_gpu_mark_info))"

_REASONS = f"""
  max by (cluster, node, serial, uuid, level, reason) (gpuid_gpu_degraded{_IN})
* on (uuid) group_left (model)
  {_MODEL}
* on (uuid) group_left (mark, ticket)
  ({_MARK} or on (uuid) max by (uuid) (gpuid_gpu_degraded))
""".strip()

# Degraded on more than one node within the time range.
_CARRIED = "(count by (uuid) (max by (cluster, node, uuid) (max_over_time(gpuid_gpu_degraded[$__range] @ end()))) > 1)"
_SEEN = f"timestamp(gpuid_gpu_degraded{_IN})[$__range:$__interval]"

_REMAPPED = 'gpuid_gpu_remapped_rows{cluster=~"$cluster",kind!="inactive"}'
_RETIRED = f"gpuid_gpu_retired_pages{_IN}"
_UNCORRECTABLE = 'gpuid_gpu_ecc_errors{cluster=~"$cluster",kind="uncorrectable"}'

# As the collector counts that can read most of a cluster; with equals, the one that finds fewest healthy.
_READ = 'sum without (model, state) (gpuid_gpus{cluster=~"$cluster",state!="unreadable"})'
_READ_HEALTHY = 'sum without (model, state) (gpuid_gpus{cluster=~"$cluster",state="healthy"})'
_BEST = f"and ignoring (model, state) topk by (cluster) (1, {_READ} - {_READ_HEALTHY} / 1e9)"
_HEALTHY = f'(gpuid_gpus{{cluster=~"$cluster",model=~"$model",state="healthy"}} {_BEST})'
_KNOWN = f"(gpuid_gpus{_CHOSEN} {_BEST})"
HEALTHY_SHARE = f"sum{_HEALTHY} / (sum{_KNOWN} > 0)"


def dashboard() -> navigation.Dashboard:
    """Return the dashboard."""
    return navigation.dashboard(
        "gpuid-health",
        "GPUs / Health",
        "Which GPUs are degraded or marked, which are wearing out, and which moved while degraded.",
        (
            navigation.clusters(),
            navigation.queried(
                "model",
                "Model",
                'label_values(gpuid_gpu_info{cluster=~"$cluster"}, model)',
                multi=True,
                all_value=".*",
            ),
        ),
        (
            *_figures(),
            Row("Degraded GPUs"),
            _reasons(),
            *_over_time(),
            Row("GPUs that were degraded on more than one node"),
            *_carried(),
            Row("Wear"),
            *_wear(),
            Row("Marks"),
            _marks(),
        ),
        time="now-30d",
    )


def _figures() -> tuple[Panel, ...]:
    return (
        figure(
            "Healthy",
            "Share of the known GPUs that are present, readable and not degraded.",
            HEALTHY_SHARE,
            unit="percentunit",
        ),
        figure(
            "Need replacement",
            "GPUs with a fault that neither a reset nor a reboot repairs.",
            _number('level="replace"'),
            thresholds=NONE_IS_GOOD,
        ),
        figure(
            "Need a reset or drain",
            "GPUs with a fault that a reset, or a reboot of the node, repairs, and nothing worse.",
            _number('level="reset"', unless='unless on (uuid) gpuid_gpu_degraded{level="replace"}'),
            thresholds=NONE_IS_GOOD,
        ),
        figure(
            "Lost",
            "GPUs that do not respond.",
            _number('reason="lost"'),
            thresholds=NONE_IS_GOOD,
        ),
        figure(
            "Moved while degraded",
            "GPUs that were degraded on more than one node within the time range.",
            f"count({_CARRIED} and on (uuid) max_over_time(gpuid_gpu_degraded{_IN}[$__range])"
            ' unless on (uuid) gpuid_gpu_info{model!~"$model"}) or vector(0)',
            thresholds=NONE_IS_GOOD,
        ),
        figure(
            "Marked rma and in service",
            "GPUs that are marked rma and are on a node.",
            f'count(count by (uuid) (gpuid_gpu_info{_CHOSEN} and on (uuid) gpuid_gpu_mark_info{{mark="rma"}}))'
            " or vector(0)",
            thresholds=NONE_IS_GOOD,
        ),
    )


def _reasons() -> Panel:
    return listing(
        "Degraded GPUs, worst first",
        "A row for each reason.",
        (
            Column("level", "Level", mappings=LEVELS),
            Column("reason", "Reason"),
            *_SERIAL_COLUMNS,
            Column("model", "Model"),
            *_PLACE_COLUMNS,
            Column("mark", "Mark"),
            Column("ticket", "Ticket"),
        ),
        _REASONS,
        height=10,
        sort=("Level", False),
    )


def _over_time() -> tuple[Panel, ...]:
    of_model = f"and on (uuid) gpuid_gpu_info{_CHOSEN}"
    return (
        curves(
            "Degraded GPUs by reason",
            "A GPU with several reasons counts for each.",
            Query(
                f"count by (reason) (max by (uuid, reason) (gpuid_gpu_degraded{_IN}) {of_model})",
                "{{reason}}",
            ),
        ),
        curves(
            "Degraded GPUs by level",
            "A GPU with reasons of both levels counts for each.",
            Query(f"count by (level) (max by (uuid, level) (gpuid_gpu_degraded{_IN}) {of_model})", "{{level}}"),
        ),
        curves(
            "Healthy GPUs by cluster",
            "Share of the known GPUs that are present, readable and not degraded.",
            Query(
                f"sum by (cluster) {_HEALTHY} / (sum by (cluster) {_KNOWN} > 0)",
                "{{cluster}}",
            ),
            unit="percentunit",
        ),
        curves(
            "Healthy GPUs by model",
            "Share of the known GPUs that are present, readable and not degraded.",
            Query(f"sum by (model) {_HEALTHY} / (sum by (model) {_KNOWN} > 0)", "{{model}}"),
            unit="percentunit",
        ),
    )


def _carried() -> tuple[Panel, ...]:
    return (
        listing(
            "Where they were degraded",
            "Every node on which these GPUs were degraded within the time range, with the first and last time; a stay "
            "shorter than the steps of a graph has no times.",
            (
                *_SERIAL_COLUMNS,
                *_PLACE_COLUMNS,
                Column("Value #B", "First degraded there", unit="dateTimeAsIso"),
                Column("Value #C", "Last degraded there", unit="dateTimeAsIso"),
            ),
            f"{_GPU} (max_over_time(gpuid_gpu_degraded{_IN}[$__range])) and on (uuid) {_CARRIED}",
            f"1000 * (min by (cluster, node, serial, uuid) (min_over_time({_SEEN})) and on (uuid) {_CARRIED})",
            f"1000 * ({_GPU} (max_over_time({_SEEN})) and on (uuid) {_CARRIED})",
            sort=("UUID", False),
        ),
        timeline(
            "Where they were degraded, over time",
            "A band for each node while the GPU was degraded there.",
            Query(
                f"{_GPU} (gpuid_gpu_degraded{_IN}) and on (uuid) {_CARRIED}",
                "{{serial}} {{uuid}} on {{cluster}}: {{node}}",
            ),
            mappings=_DEGRADED_HERE,
            link=NODE_OF_SERIES,
        ),
    )


def _wear() -> tuple[Panel, ...]:
    rows = f"sum by (uuid) (max by (uuid, kind) ({_REMAPPED}))"
    before = f"sum by (uuid) (max by (uuid, kind) ({_REMAPPED} offset $__range))"
    growth = f"{rows} - ({before} or 0 * {rows})"
    aged = f"""
sum by (model, age) (
  (
      label_replace(({growth}) and on (uuid) gpuid_gpu_info offset $__range, "age", "known before", "", "")
    or
      label_replace(({growth}) unless on (uuid) gpuid_gpu_info offset $__range, "age", "new since", "", "")
  )
    * on (uuid) group_left (model)
  {_MODEL}
)
""".strip()
    return (
        listing(
            "Most worn GPUs",
            f"The {_ROWS_KEPT} GPUs with the most remapped rows (retired pages before Ampere), and those with the most "
            "uncorrectable ECC errors, over the life of the card.",
            (
                *_SERIAL_COLUMNS,
                *_PLACE_COLUMNS,
                Column("Value #A", "Remapped rows or retired pages", unit="locale"),
                Column("Value #B", "Uncorrectable ECC errors", unit="locale"),
            ),
            _most(f"{_worn(_REMAPPED, 'kind')} or {_worn(_RETIRED, 'cause')}"),
            _most(_worn(_UNCORRECTABLE, "memory")),
            height=10,
            sort=("Remapped rows or retired pages", True),
        ),
        curves(
            "Remapped rows by model",
            "Rows of all GPUs of a model that were remapped, over the life of the cards.",
            Query(f"sum by (model) ({rows} * on (uuid) group_left (model) {_MODEL})", "{{model}}"),
        ),
        curves(
            "Remapped rows per 1,000 GPUs",
            "By model: a model that wears more than others.",
            Query(
                f"1000 * sum by (model) ({rows} * on (uuid) group_left (model) {_MODEL}) / count by (model) ({_MODEL})",
                "{{model}}",
            ),
        ),
        bars(
            "Growth of remapped rows by model and age",
            "Rows remapped within the time range, of GPUs that were known at its start, and the rows that those "
            "seen since then have brought along.",
            Query(aged, "{{model}}, {{age}}"),
        ),
        curves(
            "Uncorrectable ECC errors by model",
            "Errors that all GPUs of a model have counted over the life of the cards.",
            Query(
                f"sum by (model) (sum by (uuid) (max by (uuid, memory) ({_UNCORRECTABLE}))"
                f" * on (uuid) group_left (model) {_MODEL})",
                "{{model}}",
            ),
        ),
    )


def _marks() -> Panel:
    mark = "max by (serial, uuid, mark, ticket) (gpuid_gpu_mark_info)"
    return listing(
        "Marked GPUs",
        "All marks in force; a GPU that is away has no node.",
        (
            Column("mark", "Mark"),
            *_SERIAL_COLUMNS,
            *_PLACE_COLUMNS,
            Column("ticket", "Ticket"),
        ),
        f"{mark} * on (uuid) group_left (cluster, node)"
        " topk by (uuid) (1, max by (cluster, node, uuid) (gpuid_gpu_info))"
        f" or {mark} unless on (uuid) gpuid_gpu_info",
        sort=("Mark", False),
    )


def _number(matcher: str, unless: str = "") -> str:
    """Return a query for the number of degraded GPUs of the chosen models."""
    degraded = f'gpuid_gpu_degraded{{cluster=~"$cluster",{matcher}}} {unless}'.strip()
    return f"count(count by (uuid) ({degraded} and on (uuid) gpuid_gpu_info{_CHOSEN})) or vector(0)"


def _worn(series: str, label: str) -> str:
    """Return a count of each GPU of the chosen models, the sum over the values of a label."""
    each = f"sum by (cluster, node, serial, uuid) (max by (cluster, node, serial, uuid, {label}) ({series}))"
    return f"{each} and on (uuid) gpuid_gpu_info{_CHOSEN}"


def _most(expr: str) -> str:
    return f"topk({_ROWS_KEPT}, {expr})"
