"""HTTP: metrics, service discovery, health, the JSON API and the page."""

from collector.web.application import application
from collector.web.context import Context
from collector.web.latest import LatestChanges, as_change
from collector.web.server import serve

__all__ = ["Context", "LatestChanges", "application", "as_change", "serve"]
