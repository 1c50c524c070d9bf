"""The application keys shared by all handlers: the collector and what is derived from it."""

from aiohttp import web

from collector.views.cluster_summary import ClusterSummaries
from collector.views.collector_view import CollectorView
from collector.views.health import HealthSurveys
from collector.views.problems.current import FleetProblems

__all__ = ["COLLECTOR", "HEALTH_SURVEYS", "PROBLEMS", "SUMMARIES"]

COLLECTOR: web.AppKey[CollectorView] = web.AppKey("collector")
HEALTH_SURVEYS = web.AppKey("health_surveys", HealthSurveys)
PROBLEMS = web.AppKey("problems", FleetProblems)
SUMMARIES = web.AppKey("summaries", ClusterSummaries)
