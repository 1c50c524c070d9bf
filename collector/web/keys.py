"""What every handler finds in the application: the collector, and what is derived from it for all requests."""

from aiohttp import web

from collector.views.cluster_summary import ClusterSummaries
from collector.views.collector_view import CollectorView

__all__ = ["COLLECTOR", "SUMMARIES"]

COLLECTOR: web.AppKey[CollectorView] = web.AppKey("collector")
SUMMARIES = web.AppKey("summaries", ClusterSummaries)
