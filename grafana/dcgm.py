"""What dcgm-exporter measures of a GPU, joined with where gpuid knows it to be."""

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
    """Draw a metric, and `also` others (metric -> its name in the legend), of the selected GPUs."""
    named = {metric: called, **(also or {})}
    queries = [Query(_joined(each, gpus, places), f"{name} {_LEGEND}".strip()) for each, name in named.items()]
    return curves(title, description, *queries, unit=unit, link=UUID_OF_SERIES)


def latest(title: str, description: str, metric: str, gpus: str, places: str) -> Panel:
    """Draw which value a metric had, and for how long."""
    return timeline(
        title,
        description,
        Query(_joined(metric, gpus, places), _LEGEND),
        width=12,
        thresholds=((None, "green"), (1.0, "red")),
        link=UUID_OF_SERIES,
    )


def _joined(metric: str, gpus: str, places: str) -> str:
    """Give the metric gpuid's names; `topk` keeps the join single while a GPU moves or two nodes claim it."""
    return f"""
max by (uuid) (label_replace({metric}{{{gpus}}}, "uuid", "$1", "UUID", "(.+)"))
  * on (uuid) group_left (cluster, node, serial)
topk by (uuid) (1, max by (cluster, node, serial, uuid) (gpuid_gpu_info{{{places}}}))
""".strip()
