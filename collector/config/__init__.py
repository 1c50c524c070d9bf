"""Typed configuration: one TOML file in, frozen settings or one clear line of error out."""

from collector.config.loading import ConfigError, load, parse
from collector.config.selector import Requirement, parse_selector
from collector.config.settings import PRESETS, Cluster, Config, Defaults, Metrics, Server, Source
from collector.config.values import Duration, Listen

__all__ = [
    "PRESETS",
    "Cluster",
    "Config",
    "ConfigError",
    "Defaults",
    "Duration",
    "Listen",
    "Metrics",
    "Requirement",
    "Server",
    "Source",
    "load",
    "parse",
    "parse_selector",
]
