"""HTTP: metrics, service discovery, health, the JSON API and the page."""

from collector.web.application import application
from collector.web.server import serve

__all__ = ["application", "serve"]
