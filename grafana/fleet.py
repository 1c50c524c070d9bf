"""The dashboard of the fleet: where GPUs are, which are missing, which moved, and which clusters are down."""

from grafana_foundation_sdk.builders.dashboard import Row

from grafana import navigation
from grafana.health import HEALTHY_SHARE
from grafana.navigation import CLUSTER, DUPLICATE, HEALTH, NODE, NODE_OF_SERIES, SERIAL, UUID
from grafana.panels import NONE_IS_GOOD, Column, Panel, Query, bars, curves, figure, listing, mapped

__all__ = ["STATES", "dashboard"]

STATES = mapped(
    {
        "up": ("up", "green"),
        "starting": ("starting", "blue"),
        "bad_context": ("bad context", "red"),
        "credential_plugin_missing": ("credential plugin missing", "red"),
        "credential_plugin_failed": ("credential plugin failed", "red"),
        "unauthorized": ("unauthorized", "red"),
        "forbidden": ("forbidden", "red"),
        "unreachable": ("unreachable", "red"),
        "server_error": ("server error", "red"),
        "limit_exceeded": ("limit exceeded", "red"),
        "duplicate": ("configured twice", "orange"),
        "unowned": ("read by no shard", "red"),
    }
)
_GPU = '{cluster=~"$cluster",model=~"$model"}'
_IN = '{cluster=~"$cluster"}'

_FOUND = 'max by (cluster, node) (gpuid_node_gpus{cluster=~"$cluster",state="found"})'
_CAPACITY = 'max by (cluster, node) (gpuid_node_gpus{cluster=~"$cluster",state="capacity"})'
_MISSING = f"({_CAPACITY} - {_FOUND}) > 0"
_UNREAD = f"max by (cluster, reason) (gpuid_unread_nodes{_IN})"
_GPU_COLUMNS = (
    Column("serial", "Serial", SERIAL),
    Column("uuid", "UUID", UUID),
    Column("model", "Model"),
    Column("cluster", "Cluster", CLUSTER),
    Column("node", "Node", NODE),
)
_PLACED = "max by (cluster, node, serial, uuid, model)"
_SINCE = "gpuid_gpu_info{} offset $__range"

_MOVED = f"""
(
    {_PLACED} (gpuid_gpu_info{_GPU})
  unless on (cluster, node, uuid)
    {_SINCE.format(_GPU)}
)
* on (uuid) group_left (from_cluster, from_node)
topk by (uuid) (1, max by (uuid, from_cluster, from_node) (
  label_replace(
    label_replace({_SINCE.format("")}, "from_cluster", "$1", "cluster", "(.+)"),
    "from_node", "$1", "node", "(.+)"
  )
))
""".strip()

_GONE = f"""
  {_PLACED} ({_SINCE.format(_GPU)})
unless on (uuid)
  gpuid_gpu_info
""".strip()

# The same UUID or the same serial on two nodes; two GPUs that share the serial of a board are on one node.
_TWICE = f"""
  {_PLACED} (gpuid_gpu_info{_GPU})
and on (uuid)
  (count by (uuid) (max by (cluster, node, uuid) (gpuid_gpu_info)) > 1)
or
  {_PLACED} (gpuid_gpu_info{_GPU})
and on (serial)
  (count by (serial) (max by (cluster, node, serial) (gpuid_gpu_info{{serial!=""}})) > 1)
""".strip()


def dashboard() -> navigation.Dashboard:
    """Return the dashboard."""
    return navigation.dashboard(
        "gpuid-fleet",
        "GPUs / Fleet",
        "Where GPUs are, which are missing, which moved, and which clusters are down.",
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
        (*_figures(), *_counts(), Row("Clusters"), _clusters(), Row("GPUs that need attention"), *_lists()),
    )


def _figures() -> tuple[Panel, ...]:
    return (
        figure(
            "GPUs",
            "Physical GPUs, each counted once, no matter how many collectors or nodes report it.",
            f"count(count by (uuid) (gpuid_gpu_info{_GPU}))",
            width=3,
        ),
        figure(
            "Nodes",
            "Nodes whose GPUs have been read.",
            f"count(max by (cluster, node) (gpuid_node_info{_IN}))",
            width=3,
        ),
        figure(
            "Unread nodes",
            "GPU nodes that cannot be read now or have not been read yet. The state of their GPUs is unknown.",
            f"sum({_UNREAD}) or vector(0)",
            thresholds=NONE_IS_GOOD,
            width=3,
        ),
        figure(
            "Clusters down",
            "Clusters that no collector can watch, except duplicates in the configuration.",
            f"count((max by (cluster) (gpuid_cluster_up{_IN}) == 0) unless on (cluster) {DUPLICATE}) or vector(0)",
            thresholds=NONE_IS_GOOD,
            width=3,
        ),
        figure(
            "Missing GPUs",
            "GPUs in a node's capacity that nvidia-smi does not find.",
            f"sum({_MISSING}) or vector(0)",
            thresholds=NONE_IS_GOOD,
            width=3,
        ),
        figure(
            "Conflicts",
            "GPUs that two nodes claim, each counted once.",
            f"count(count by (uuid) ({_TWICE})) or vector(0)",
            thresholds=NONE_IS_GOOD,
            width=3,
        ),
        figure(
            "Moves",
            "GPUs that arrived from another node within the time range.",
            f"round(sum(max by (cluster) (increase(gpuid_gpu_moves_total{_IN}[$__range]))))",
            width=3,
        ),
        figure(
            "Healthy",
            "Share of the known GPUs that are present, readable and not degraded; dashboard Health lists the others.",
            HEALTHY_SHARE,
            unit="percentunit",
            width=3,
            link=HEALTH,
        ),
    )


def _counts() -> tuple[Panel, ...]:
    return (
        bars(
            "GPUs by cluster and model",
            "GPUs of each model in each cluster.",
            Query(
                f"count by (cluster, model) (max by (cluster, uuid, model) (gpuid_gpu_info{_GPU}))",
                "{{cluster}}: {{model}}",
            ),
        ),
        curves(
            "GPUs by cluster",
            "GPUs in each cluster over time.",
            Query(f"count by (cluster) (max by (cluster, uuid) (gpuid_gpu_info{_GPU}))", "{{cluster}}"),
        ),
        curves(
            "Found and capacity",
            "GPUs that nvidia-smi finds and that Kubernetes counts, on nodes with both numbers.",
            Query(f"sum({_FOUND} and on (cluster, node) {_CAPACITY})", "found"),
            Query(f"sum({_CAPACITY} and on (cluster, node) {_FOUND})", "capacity"),
        ),
        curves(
            "Moves by cluster",
            "GPUs that arrived in each cluster from another node of any cluster.",
            Query(
                f"max by (cluster) (increase(gpuid_gpu_moves_total{_IN}[$__rate_interval]))",
                "{{cluster}}",
            ),
        ),
        bars(
            "Nodes by driver",
            "Nodes with each driver and CUDA version.",
            Query(
                "count by (driver_version, cuda_version) "
                f"(max by (cluster, node, driver_version, cuda_version) (gpuid_node_info{_IN}))",
                "driver {{driver_version}}, CUDA {{cuda_version}}",
            ),
        ),
        curves(
            "Nodes with missing GPUs",
            "Number of missing GPUs per node.",
            Query(_MISSING, "{{cluster}}: {{node}}"),
            link=NODE_OF_SERIES,
        ),
    )


def _clusters() -> Panel:
    return listing(
        "Clusters",
        "State of each cluster, the age of gpuid's view of it, and its contents.",
        (
            Column("cluster", "Cluster", CLUSTER),
            Column("state", "State", mappings=STATES),
            Column(
                "Value #B",
                "Age of the view",
                unit="s",
                thresholds=((None, "green"), (600.0, "orange"), (1800.0, "red")),
            ),
            Column("Value #C", "Nodes read"),
            Column("Value #G", "Unread nodes", thresholds=NONE_IS_GOOD),
            Column("Value #D", "GPUs"),
            Column("Value #E", "Missing GPUs", thresholds=NONE_IS_GOOD),
            Column("Value #F", "Conflicts", thresholds=NONE_IS_GOOD),
        ),
        f"max by (cluster, state) (gpuid_cluster_state{_IN})",
        f"time() - max by (cluster) (gpuid_cluster_synced_timestamp_seconds{_IN})",
        f"count by (cluster) (max by (cluster, node) (gpuid_node_info{_IN}))",
        f"count by (cluster) (max by (cluster, uuid) (gpuid_gpu_info{_IN}))",
        f"sum by (cluster) ({_MISSING})",
        f"max by (cluster) (gpuid_gpu_conflicts{_IN})",
        f"sum by (cluster) ({_UNREAD})",
    )


def _lists() -> tuple[Panel, ...]:
    return (
        listing(
            "Nodes with missing GPUs now",
            "A GPU fell off the bus, or a tray was reinstalled with GPUs missing.",
            (
                Column("cluster", "Cluster", CLUSTER),
                Column("node", "Node", NODE),
                Column("Value #A", "Missing", thresholds=NONE_IS_GOOD),
                Column("Value #B", "Found"),
                Column("Value #C", "Capacity"),
            ),
            _MISSING,
            f"{_FOUND} and on (cluster, node) ({_MISSING})",
            f"{_CAPACITY} and on (cluster, node) ({_MISSING})",
            width=12,
        ),
        listing(
            "GPUs in two places",
            "GPUs that more than one node claims now, because they are moving or because of a conflict.",
            _GPU_COLUMNS,
            _TWICE,
            width=12,
        ),
        listing(
            "GPUs that moved",
            "GPUs that are on a different node than at the start of the time range.",
            (*_GPU_COLUMNS, Column("from_cluster", "From cluster"), Column("from_node", "From node")),
            _MOVED,
            width=12,
        ),
        listing(
            "GPUs that vanished",
            "GPUs that were present at the start of the time range and no longer are, with their last place.",
            _GPU_COLUMNS,
            _GONE,
            width=12,
        ),
    )
