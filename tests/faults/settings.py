"""The configuration of the processes of a run, without its clusters and its store."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support import s3

__all__ = [
    "CLUSTER_CHANGES",
    "FURTHER_SINK",
    "SINK_CHANGES",
    "Table",
    "defaults",
    "first_sinks",
    "further_sink",
    "written",
    "written_cluster",
]

Table = dict[str, Any]  # the keys of a cluster or a sink with their values: texts, numbers and booleans

FURTHER_SINK = "more"  # a webhook that the first configuration does not have

# Short times, so that what needs hours or minutes otherwise happens within a run. With some seeds no node is read again
# by itself, so that a change that is not noticed stays so.
_DEFAULTS = """
[defaults]
kubeconfig = "{kubeconfig}"
refresh = "{refresh}"
grace = "5s"
exec_timeout = "10s"
labels = true
"""

# Sinks get the whole history: a shard may record its first changes before any shard delivers, and without `backfill` a
# new sink starts after them.
_LOG = {"type": "stdout", "backfill": True, "batch_age": "200ms"}
_HOOK = {
    "type": "webhook",
    "backfill": True,
    "batch_age": "200ms",
    "connect_timeout": "2s",
    "read_timeout": "3s",
    "write_timeout": "3s",
    "timeout": "5s",
}
_LAKE = {
    "type": "s3",
    "backfill": True,
    "bucket": s3.BUCKET,
    "path_style": True,
    "region": "us-east-1",
    "format": "jsonl",
    "batch_age": "1s",
    "connect_timeout": "2s",
    "read_timeout": "3s",
    "timeout": "5s",
}
_WAREHOUSE = {
    "type": "postgres",
    "backfill": True,
    "sslmode": "disable",
    "create_table": True,
    "batch_age": "1s",
    "connect_timeout": "2s",
    "statement_timeout": "3s",
}

# What a reload may change of a sink: none of it may lose a record, or deliver one under another key.
_BATCHES: Mapping[str, tuple[Any, ...]] = {
    "batch_records": (5, 50, 500, 5000),
    "batch_age": ("50ms", "200ms", "1s", "3s"),
}
SINK_CHANGES: Mapping[str, Mapping[str, tuple[Any, ...]]] = {  # by type of sink: keys, and their values
    "stdout": _BATCHES,
    "webhook": {**_BATCHES, "gzip": (False, True), "read_timeout": ("2s", "3s"), "timeout": ("4s", "5s", "8s")},
    "s3": {**_BATCHES, "gzip": (False, True), "prefix": ("", "gpus", "gpus/serials"), "timeout": ("4s", "5s", "8s")},
    "postgres": {**_BATCHES, "statement_timeout": ("2s", "3s", "5s")},
}
# And of a cluster, which is watched from the start again then: none of it may make a GPU disappear.
CLUSTER_CHANGES: Mapping[str, tuple[Any, ...]] = {
    "exec_concurrency": (1, 4, 16),
    "exec_timeout": ("8s", "10s", "12s"),
    "request_rate": (20.0, 100.0),
}


def defaults(kubeconfig: Path, *, rereads: bool) -> str:
    """Return what all clusters have, and whether nodes are read again soon though nothing has happened."""
    return _DEFAULTS.format(kubeconfig=kubeconfig, refresh="10s" if rereads else "1h")


def first_sinks(links: Collection[str]) -> dict[str, Table]:
    """Return the sinks of the first configuration, by name; those that deliver to links are as these are."""
    found = {"log": _LOG, "hook": _HOOK, "lake": _LAKE, "warehouse": _WAREHOUSE}
    return {name: dict(table) for name, table in found.items() if name == "log" or name in links}


def further_sink() -> Table:
    """Return the further sink, which gets the whole history as well."""
    return dict(_HOOK)


def written(sinks: Iterable[tuple[str, Table]], links: Mapping[str, str]) -> str:
    """Return sinks as TOML, with the URLs of the links that lead to them."""
    text = ""
    for name, table in sinks:
        url = {} if name == "log" else {"endpoint_url" if table["type"] == "s3" else "url": links[name]}
        text += f"\n[sinks.{name}]\n{_keys({**table, **url})}"
    return text


def written_cluster(table: Table) -> str:
    """Return a cluster as TOML."""
    return f"[[clusters]]\n{_keys(table)}"


def _keys(table: Table) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
