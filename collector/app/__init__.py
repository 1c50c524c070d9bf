"""The composition root: builds a collector from a configuration and runs it in one task group."""

from collector.app.configuration import load
from collector.app.service import Service

__all__ = ["Service", "load"]
