"""HTTP: metrics, service discovery, health, the JSON API and the page."""

from collector.web.application import application
from collector.web.context import Context
from collector.web.latest import LatestChanges, as_change
from collector.web.server import serve
from collector.web.sink_states import SinkStates

__all__ = ["Context", "LatestChanges", "SinkStates", "application", "as_change", "serve"]
