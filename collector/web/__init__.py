"""HTTP: metrics, service discovery, health, the JSON API and the page."""

from collector.web.application import application
from collector.web.server import check_address, serve

__all__ = ["application", "check_address", "serve"]
