"""The series about gpuid itself as a scraper reads them."""

from collections.abc import Collection

from collector.exposition import Metrics
from collector.exposition.shards import inflated

__all__ = ["own_text"]


def own_text(
    metrics: Metrics, *, clusters: Collection[str] | None = (), with_process: bool = True, openmetrics: bool = False
) -> str:
    """Return the text of some clusters' own series (None: all), and of the process."""
    for name in metrics.clusters() if clusters is None else clusters:
        metrics.look_at(name)
    text = metrics.text(clusters=clusters, with_process=with_process, openmetrics=openmetrics)
    return b"".join(inflated(text)).decode()
