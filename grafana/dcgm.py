"""Panels with metrics of dcgm-exporter, joined with the places of the GPUs."""

from collections.abc import Mapping

from grafana.navigation import UUID_OF_SERIES
from grafana.panels import Panel, Query, curves, timeline

__all__ = ["curve", "latest"]

_LEGEND = "{{serial}} {{uuid}} on {{cluster}}: {{node}}"


def curve(
    title: str,
    description: str,
    metric: str,
    gpus: str,
    places: str,
    *,
    unit: str = "locale",
    also: Mapping[str, str] | None = None,
    called: str = "",
) -> Panel:
    """Return a graph of a metric of the selected GPUs, and of `also` (metric -> its name in the legend)."""
    named = {metric: called, **(also or {})}
    queries = [Query(_joined(each, gpus, places), f"{name} {_LEGEND}".strip()) for each, name in named.items()]
    return curves(title, description, *queries, unit=unit, link=UUID_OF_SERIES)


def latest(title: str, description: str, metric: str, gpus: str, places: str) -> Panel:
    """Return a timeline of the values of a metric."""
    return timeline(
        title,
        description,
        Query(_joined(metric, gpus, places), _LEGEND),
        width=12,
        thresholds=((None, "green"), (1.0, "red")),
        link=UUID_OF_SERIES,
    )


def _joined(metric: str, gpus: str, places: str) -> str:
    """Return a metric with gpuid's labels; `topk` keeps the join one-to-one while a GPU moves or two nodes claim it."""
    return f"""
max by (uuid) (label_replace({metric}{{{gpus}}}, "uuid", "$1", "UUID", "(.+)"))
  * on (uuid) group_left (cluster, node, serial)
topk by (uuid) (1, max by (cluster, node, serial, uuid) (gpuid_gpu_info{{{places}}}))
""".strip()
