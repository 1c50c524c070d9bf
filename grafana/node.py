"""The dashboard of one node: its present and past GPUs, their health, and its state in Kubernetes."""

from grafana_foundation_sdk.builders.dashboard import Row

from grafana import navigation
from grafana.dcgm import curve, latest
from grafana.navigation import CLUSTER, SERIAL, UUID, UUID_OF_SERIES
from grafana.panels import HERE, NONE_IS_GOOD, Column, Panel, Query, curves, figure, listing, mapped, timeline

__all__ = ["dashboard"]

_HERE = '{cluster="$cluster",node="$node"}'
_STATE = 'max by (cluster, node) (gpuid_node_gpus{{cluster="$cluster",node="$node",state="{}"}})'
_READ = f"max by (cluster, node) (gpuid_node_read_timestamp_seconds{_HERE})"
_MISSING = f"{_STATE.format('capacity')} - {_STATE.format('found')}"
_YES_NO = mapped({"1": ("yes", "green"), "0": ("no", "red")})


def dashboard() -> navigation.Dashboard:
    """Return the dashboard."""
    return navigation.dashboard(
        "gpuid-node",
        "GPUs / Node",
        "Present and past GPUs of a node, their health, and the state of the node in Kubernetes.",
        (
            navigation.clusters(multi=False),
            navigation.queried("node", "Node", 'label_values(gpuid_node_gpus{cluster="$cluster"}, node)'),
            navigation.queried("uuid", "GPU", f"label_values(gpuid_gpu_info{_HERE}, uuid)", multi=True),
        ),
        (
            *_figures(),
            _machine(),
            _gpus(),
            _over_time(),
            _counts(),
            Row("GPU health (dcgm-exporter)"),
            *_health(),
            Row("Kubernetes (kube-state-metrics)"),
            *_kubernetes(),
        ),
    )


def _figures() -> tuple[Panel, ...]:
    return (
        figure("Found", "GPUs that nvidia-smi found.", _STATE.format("found")),
        figure("Capacity", "GPUs that Kubernetes counts on the node.", _STATE.format("capacity")),
        figure("Allocatable", "GPUs allocatable to pods.", _STATE.format("allocatable")),
        figure(
            "Missing", "GPUs that Kubernetes counts but nvidia-smi does not find.", _MISSING, thresholds=NONE_IS_GOOD
        ),
        figure("Last read", "How long ago the node was last read successfully.", f"time() - {_READ}", unit="s"),
        figure(
            "Cluster up",
            "Whether the cluster of the node can be watched now; if not, this is the last known state.",
            'max by (cluster) (gpuid_cluster_up{cluster="$cluster"})',
            mappings=_YES_NO,
            link=navigation.FLEET,
        ),
    )


def _machine() -> Panel:
    labels = ("machine", "provider_id", "chassis", "driver_version", "cuda_version")
    return listing(
        "Machine and driver",
        "Cloud instance, chassis of the GPUs, driver and CUDA version.",
        (
            Column("cluster", "Cluster", CLUSTER),
            Column("node", "Node"),
            Column("machine", "Machine"),
            Column("provider_id", "Provider ID"),
            Column("chassis", "Chassis"),
            Column("driver_version", "Driver"),
            Column("cuda_version", "CUDA"),
        ),
        f"max by (cluster, node, {', '.join(labels)}) (gpuid_node_info{_HERE})",
        height=4,
    )


def _gpus() -> Panel:
    return listing(
        "GPUs now",
        "GPUs that the last reading found.",
        (
            Column("serial", "Serial", SERIAL),
            Column("uuid", "UUID", UUID),
            Column("model", "Model"),
            Column("chassis", "Chassis"),
        ),
        f"max by (serial, uuid, model, chassis) (gpuid_gpu_info{_HERE})",
        width=12,
        height=10,
    )


def _over_time() -> Panel:
    return (
        timeline(
            "GPUs over time",
            "A band for each GPU while it was in the node.",
            Query(f"max by (serial, uuid) (gpuid_gpu_info{_HERE})", "{{serial}} {{uuid}}"),
            width=12,
            mappings=HERE,
            link=UUID_OF_SERIES,
        )
    ).height(10)


def _counts() -> Panel:
    return curves(
        "Found, capacity and allocatable",
        "Found below capacity: a GPU fell off the bus. Allocatable below capacity: a GPU is unhealthy.",
        Query(f"max by (state) (gpuid_node_gpus{_HERE})", "{{state}}"),
        width=24,
    )


def _health() -> tuple[Panel, ...]:
    gpus, places = 'UUID=~"$uuid"', 'cluster="$cluster",node="$node"'
    return (
        curve("Temperature", "Temperature of each GPU.", "DCGM_FI_DEV_GPU_TEMP", gpus, places, unit="celsius"),
        curve("Power", "Power draw of each GPU.", "DCGM_FI_DEV_POWER_USAGE", gpus, places, unit="watt"),
        curve(
            "Utilization",
            "Share of time that each GPU was busy.",
            "DCGM_FI_DEV_GPU_UTIL",
            gpus,
            places,
            unit="percent",
        ),
        latest(
            "Last XID error",
            "Number of the last XID error of each GPU; 0 means none.",
            "DCGM_FI_DEV_XID_ERRORS",
            gpus,
            places,
        ),
    )


def _kubernetes() -> tuple[Panel, ...]:
    return (
        listing(
            "System",
            "Kernel, kubelet and operating system of the node.",
            (
                Column("kernel_version", "Kernel"),
                Column("kubelet_version", "Kubelet"),
                Column("os_image", "System"),
            ),
            f"max by (kernel_version, kubelet_version, os_image) (kube_node_info{_HERE})",
            width=12,
            height=4,
        ),
        figure(
            "Schedulable",
            "Whether pods can be scheduled on the node; no means cordoned.",
            f"1 - max by (cluster, node) (kube_node_spec_unschedulable{_HERE})",
            width=6,
            mappings=_YES_NO,
        ),
        figure(
            "Ready",
            "Whether the node is ready.",
            "max by (cluster, node) (kube_node_status_condition"
            '{cluster="$cluster",node="$node",condition="Ready",status="true"})',
            width=6,
            mappings=_YES_NO,
        ),
    )
