"""Typed configuration: turns a TOML file into frozen settings or a one-line error."""

from collector.config.loading import ConfigError, load, parse
from collector.config.selector import Requirement, parse_selector
from collector.config.settings import (
    ClusterSettings,
    Config,
    DefaultSettings,
    MetricsSettings,
    ServerSettings,
)
from collector.config.sources import DEFAULT_COMMAND, OTHER_SOURCES, PRESETS, PodSource, SourceMethod
from collector.config.values import Duration, Listen, Size

__all__ = [
    "DEFAULT_COMMAND",
    "OTHER_SOURCES",
    "PRESETS",
    "ClusterSettings",
    "Config",
    "ConfigError",
    "DefaultSettings",
    "Duration",
    "Listen",
    "MetricsSettings",
    "PodSource",
    "Requirement",
    "ServerSettings",
    "Size",
    "SourceMethod",
    "load",
    "parse",
    "parse_selector",
]
