"""One GPU, by what stands on its sticker: where it is, where it was, and how it fares there."""

from grafana_foundation_sdk.builders.dashboard import Row, TextBoxVariable

from grafana import navigation
from grafana.dcgm import curve, latest
from grafana.navigation import CLUSTER, NODE, NODE_OF_SERIES, UUID
from grafana.panels import HERE, Column, Panel, Query, listing, timeline

__all__ = ["dashboard"]

_SEARCH = " or ".join(
    f'last_over_time(gpuid_gpu_info{{cluster=~"$cluster",{label}=~"$search",{label}!=""}}[$__range])'
    for label in ("serial", "uuid", "chassis")
)
_HERE = '{uuid=~"$uuid"}'
_PLACED = "max by (cluster, node, serial, uuid, model, chassis)"
_WAS = "by (cluster, node, serial, uuid, chassis)"
_SEEN = f"timestamp(gpuid_gpu_info{_HERE})[$__range:15s]"

_NOW = f"""
  {_PLACED} (gpuid_gpu_info{_HERE})
* on (cluster, node) group_left (machine, driver_version)
  topk by (cluster, node) (1, max by (cluster, node, machine, driver_version) (gpuid_node_info))
""".strip()


def dashboard() -> navigation.Dashboard:
    """Make it."""
    return navigation.dashboard(
        "gpuid-serial",
        "GPUs / Serial lookup",
        "Where the GPU with this serial, UUID or chassis is, where it was, and how it fares.",
        (
            TextBoxVariable("search")
            .label("Serial, UUID or chassis")
            .description("As on the sticker; patterns such as 1652.* are allowed")
            .default_value(""),
            navigation.clusters(),
            navigation.queried(
                "uuid",
                "GPU",
                f"query_result(max by (uuid) ({_SEARCH}))",
                multi=True,
                regex='/uuid="([^"]+)"/',
            ),
        ),
        (_now(), _was(), _over_time(), Row("How it fares (dcgm-exporter)"), *_health()),
        time="now-7d",
    )


def _now() -> Panel:
    return listing(
        "Where it is now",
        "The GPUs of this serial, UUID or chassis. GB200 boards share one serial between two GPUs.",
        (
            Column("serial", "Serial"),
            Column("uuid", "UUID", UUID),
            Column("model", "Model"),
            Column("chassis", "Chassis"),
            Column("cluster", "Cluster", CLUSTER),
            Column("node", "Node", NODE),
            Column("machine", "Machine"),
            Column("driver_version", "Driver"),
        ),
        _NOW,
        height=6,
    )


def _was() -> Panel:
    return listing(
        "Where it was",
        "Every node that it was on within the time range, first and last seen there within it; "
        "without times where that was for a few seconds.",
        (
            Column("serial", "Serial"),
            Column("uuid", "UUID", UUID),
            Column("chassis", "Chassis"),
            Column("cluster", "Cluster", CLUSTER),
            Column("node", "Node", NODE),
            Column("Value #B", "First seen", unit="dateTimeAsIso"),
            Column("Value #C", "Last seen", unit="dateTimeAsIso"),
        ),
        f"max {_WAS} (present_over_time(gpuid_gpu_info{_HERE}[$__range]))",
        f"1000 * min {_WAS} (min_over_time({_SEEN}))",
        f"1000 * max {_WAS} (max_over_time({_SEEN}))",
        height=6,
    )


def _over_time() -> Panel:
    return timeline(
        "Where it was, over time",
        "A band for each node that it was on, as long as it was there.",
        Query(
            f"max by (cluster, node, serial, uuid) (gpuid_gpu_info{_HERE})",
            "{{serial}} {{uuid}} on {{cluster}}: {{node}}",
        ),
        mappings=HERE,
        link=NODE_OF_SERIES,
    )


def _health() -> tuple[Panel, ...]:
    gpus = 'UUID=~"$uuid"'
    places = 'uuid=~"$uuid"'
    return (
        curve("Temperature", "The GPU's own sensor.", "DCGM_FI_DEV_GPU_TEMP", gpus, places, unit="celsius"),
        curve("Power", "What the GPU draws.", "DCGM_FI_DEV_POWER_USAGE", gpus, places, unit="watt"),
        latest(
            "Last XID error",
            "The number of the last XID error that the driver reported; 0 is none.",
            "DCGM_FI_DEV_XID_ERRORS",
            gpus,
            places,
        ),
        curve(
            "ECC errors",
            "Since the driver was loaded: corrected (single bit) and not correctable (double bit). "
            "dcgm-exporter has to be told to collect them.",
            "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
            gpus,
            places,
            also={"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": "not correctable"},
            called="corrected",
        ),
        curve(
            "Remapped rows",
            "Memory rows that the GPU has replaced for good, after corrected and uncorrectable errors.",
            "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
            gpus,
            places,
            also={"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "uncorrectable"},
            called="correctable",
        ),
        curve(
            "Utilization",
            "The share of time in which the GPU was at work.",
            "DCGM_FI_DEV_GPU_UTIL",
            gpus,
            places,
            unit="percent",
        ),
    )
