"""The composition root: builds a collector from a configuration and runs it in one task group."""

from collector.app.outcome import Outcome
from collector.app.round import Round
from collector.app.service import Service
from collector.config import load

__all__ = ["Outcome", "Round", "Service", "load"]
