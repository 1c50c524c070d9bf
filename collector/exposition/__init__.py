"""Exposition: renders the inventory as the text that Prometheus scrapes."""

from collector.exposition.exposition import CLASSIC, OPENMETRICS, Body, Exposition
from collector.exposition.metrics import Metrics

__all__ = ["CLASSIC", "OPENMETRICS", "Body", "Exposition", "Metrics"]
