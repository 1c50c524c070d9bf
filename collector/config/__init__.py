"""Typed configuration: one TOML file in, frozen settings or one clear line of error out."""

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
