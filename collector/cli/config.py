"""`gpuid config`: prints the effective configuration, defaults included, as TOML without secrets."""

import re
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec

from collector import config as configuration
from collector.cli.initial_config import toml
from collector.cli.options import config_option
from collector.config import ClusterSettings, Config, DefaultSettings, Duration, Size
from collector.config.postgres import split_postgres_url
from collector.redaction import MASK
from collector.text import escaped

__all__ = ["config", "document", "duration_text"]

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_SOURCES = re.compile(r"^\[\[sources\]\]$", re.MULTILINE)  # of a cluster written as its own table
_SECRET_PARAMETER = re.compile(r"([?&](?:ssl)?password=)[^&]*")


@click.command("config")
@config_option
def config(config: Path) -> None:
    r"""Print the effective configuration as TOML: every key with its value, defaults included.

    Paths are absolute. Keys without a value are omitted, and so are keys of a cluster that equal [defaults].
    Passwords, password hashes and webhook paths are printed as ***; apart from these, the output loads as
    the same configuration.

    \b
    Examples:
      gpuid config
      gpuid config -c gpuid.toml | grep refresh
    """
    settings = configuration.load(config)
    click.echo(f"# The configuration in {escaped(str(config))}, with the defaults of all other keys.\n")
    found = document(settings, config.absolute().parent)
    for cluster in found.pop("clusters"):
        text = _SOURCES.sub("[[clusters.sources]]", toml(cluster))
        click.echo(f"[[clusters]]\n{text}")
    click.echo(toml(found), nl=False)


def document(settings: Config, folder: Path) -> dict[str, Any]:
    """Return a configuration as a TOML document; relative kubeconfigs of its defaults are resolved in `folder`."""
    defaults = _table(settings.defaults)
    if settings.defaults.kubeconfig is not None:
        parts = settings.defaults.kubeconfig.split(":")
        defaults["kubeconfig"] = ":".join(str(folder / Path(part).expanduser()) for part in parts if part)
    found: dict[str, Any] = {
        "defaults": _chosen_pods(defaults, settings.defaults),
        "clusters": [_cluster(cluster, settings.defaults, defaults) for cluster in settings.clusters],
        "server": _table(settings.server),
        "metrics": _table(settings.metrics),
    }
    if settings.server.basic_auth:
        found["server"]["basic_auth"] = dict.fromkeys(settings.server.basic_auth, MASK)
    else:
        del found["server"]["basic_auth"]
    if settings.store is not None:
        found["store"] = _table(settings.store)
    if settings.sinks:
        found["sinks"] = {name: _table(sink) for name, sink in settings.sinks.items()}
    return found


def _cluster(cluster: ClusterSettings, defaults: DefaultSettings, inherited: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a cluster that are only its own or differ from the defaults."""
    every = _table(cluster)
    table: dict[str, Any] = {name: every.pop(name) for name in ("name", "context", "in_cluster") if name in every}
    if not cluster.in_cluster:
        del table["in_cluster"]
    same_pods = (cluster.preset, cluster.sources) == (defaults.preset, defaults.sources)
    if not same_pods:
        table |= {name: every[name] for name in _chosen_pods(every, cluster) if name in ("preset", "sources")}
    pods = {"preset", "sources"}
    return table | {name: one for name, one in every.items() if name not in pods and inherited.get(name) != one}


def _chosen_pods(table: dict[str, Any], settings: DefaultSettings) -> dict[str, Any]:
    """Return a table with either the sources or the preset: both together are rejected."""
    left_out = "preset" if settings.sources else "sources"
    return {name: one for name, one in table.items() if name != left_out}


def _table(settings: msgspec.Struct) -> dict[str, Any]:
    """Return settings as a table; None values have no key."""
    tag = settings.__struct_config__.tag
    table: dict[str, Any] = {} if tag is None else {"type": tag}
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if value is not None and (name, value) != ("command", ()):  # of a source that uses its cluster's command
            table[name] = _without_secrets(value) if name == "url" else _value(value)
    return table


def _value(value: object) -> Any:
    if isinstance(value, Duration):
        return duration_text(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Size | Path):
        return str(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, msgspec.Struct):
        return _table(value)
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    return value


def duration_text(duration: float) -> str:
    """Return a duration as in a configuration, such as "1h30m" or "1.5s"; parsing returns the same duration."""
    rest = Decimal(repr(float(duration))).normalize()
    text = ""
    for unit, seconds in _UNITS:
        count = rest // seconds
        if count and (unit != "s" or rest == count):
            text += f"{count:f}{unit}"
            rest -= count * seconds
    if rest or not text:
        text += f"{rest:f}s"
    return text if Duration.parse(text) == duration else f"{Decimal(repr(float(duration))):f}s"


def _without_secrets(url: str) -> str:
    """Return the URL of a store or sink without its secrets; it still parses."""
    if url.startswith(("postgresql://", "postgres://")):
        user, colon, password = split_postgres_url(url).login.partition(":")
        shown = url.replace(f"{user}{colon}{password}@", f"{user}:{MASK}@", 1) if colon else url
        return _SECRET_PARAMETER.sub(rf"\1{MASK}", shown)
    if url.startswith("sqlite:"):
        return url
    parts = urlsplit(url)
    whole = parts.path in {"", "/"} and not parts.query
    return url if whole else f"{parts.scheme}://{parts.netloc}/{MASK}"
