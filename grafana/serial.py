"""The dashboard of one GPU, found by the serial on its label: its present and past places, and its health."""

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
    """Return the dashboard."""
    return navigation.dashboard(
        "gpuid-serial",
        "GPUs / Serial lookup",
        "Current and past places of the GPUs with a serial, UUID or chassis serial, and their health.",
        (
            TextBoxVariable("search")
            .label("Serial, UUID or chassis")
            .description("As on the GPU's label; patterns such as 1652.* are allowed")
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
        (_now(), _was(), _over_time(), Row("Health (dcgm-exporter)"), *_health()),
        time="now-7d",
    )


def _now() -> Panel:
    return listing(
        "Where it is now",
        "The GPUs with this serial, UUID or chassis serial. The two GPUs of a GB200 board share one serial.",
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
        "Every node that it was on within the time range, with the first and last time that it was seen there; "
        "a stay of a few seconds has no times.",
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
        "A band for each node while the GPU was there.",
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
        curve("Temperature", "Temperature of the GPU.", "DCGM_FI_DEV_GPU_TEMP", gpus, places, unit="celsius"),
        curve("Power", "Power draw of the GPU.", "DCGM_FI_DEV_POWER_USAGE", gpus, places, unit="watt"),
        latest(
            "Last XID error",
            "Number of the last XID error; 0 means none.",
            "DCGM_FI_DEV_XID_ERRORS",
            gpus,
            places,
        ),
        curve(
            "ECC errors",
            "Corrected (single-bit) and uncorrectable (double-bit) errors since the driver was loaded. "
            "dcgm-exporter does not collect them by default.",
            "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL",
            gpus,
            places,
            also={"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": "uncorrectable"},
            called="corrected",
        ),
        curve(
            "Remapped rows",
            "Memory rows that the GPU has remapped after correctable and uncorrectable errors.",
            "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
            gpus,
            places,
            also={"DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": "uncorrectable"},
            called="correctable",
        ),
        curve(
            "Utilization",
            "Share of time that the GPU was busy.",
            "DCGM_FI_DEV_GPU_UTIL",
            gpus,
            places,
            unit="percent",
        ),
    )
