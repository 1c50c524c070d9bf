"""What every handler finds in the application: the collector, and what is derived from it for all requests."""

from aiohttp import web

from collector.views.cluster_summary import ClusterSummaries
from collector.views.collector_view import CollectorView
from collector.views.health import FleetHealth

__all__ = ["COLLECTOR", "FLEET_HEALTH", "SUMMARIES"]

COLLECTOR: web.AppKey[CollectorView] = web.AppKey("collector")
FLEET_HEALTH = web.AppKey("fleet_health", FleetHealth)
SUMMARIES = web.AppKey("summaries", ClusterSummaries)
