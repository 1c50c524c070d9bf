"""Typed configuration: one TOML file in, frozen settings or one clear line of error out."""

from collector.config.loading import ConfigError, load, parse
from collector.config.selector import Requirement, parse_selector
from collector.config.settings import (
    PRESETS,
    ClusterSettings,
    Config,
    DefaultSettings,
    MetricsSettings,
    PodSource,
    ServerSettings,
)
from collector.config.values import Duration, Listen, Size

__all__ = [
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
    "load",
    "parse",
    "parse_selector",
]
