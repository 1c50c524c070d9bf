"""Reads the configuration file, and its kubeconfigs as far as that proves it usable."""

from pathlib import Path

from collector import config as configuration
from collector.config import Config, ConfigError
from collector.kube import kubeconfig

__all__ = ["load"]


def load(path: Path) -> Config:
    """Return the configuration of a file, all of whose contexts exist; raises ConfigError."""
    config = configuration.load(path)
    try:
        kubeconfig.check(config.clusters)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config
