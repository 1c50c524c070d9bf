"""The configuration of the processes of a run, without its clusters and its store."""

from collections.abc import Mapping
from pathlib import Path

from tests.support import s3

__all__ = ["defaults", "sinks"]

# Short times, so that what needs hours or minutes otherwise happens within a run. With some seeds no node is read again
# by itself, so that a change that is not noticed stays so. Sinks get the whole history: a shard
# may record its first changes before any shard delivers, and without `backfill` a new sink starts after them.
_DEFAULTS = """
[defaults]
kubeconfig = "{kubeconfig}"
refresh = "{refresh}"
grace = "5s"
exec_timeout = "10s"
labels = true
"""
_SINKS = """
[sinks.log]
type = "stdout"
backfill = true
batch_age = "200ms"

[sinks.hook]
type = "webhook"
backfill = true
url = "{webhook}"
batch_age = "200ms"
connect_timeout = "2s"
read_timeout = "3s"
write_timeout = "3s"
timeout = "5s"
"""
_LAKE = """
[sinks.lake]
type = "s3"
backfill = true
bucket = "{bucket}"
endpoint_url = "{s3}"
path_style = true
region = "us-east-1"
format = "jsonl"
batch_age = "1s"
connect_timeout = "2s"
read_timeout = "3s"
timeout = "5s"
"""
_WAREHOUSE = """
[sinks.warehouse]
type = "postgres"
backfill = true
url = "{warehouse}"
sslmode = "disable"
create_table = true
batch_age = "1s"
connect_timeout = "2s"
statement_timeout = "3s"
"""


def defaults(kubeconfig: Path, *, rereads: bool) -> str:
    """Return what all clusters have, and whether nodes are read again soon though nothing has happened."""
    return _DEFAULTS.format(kubeconfig=kubeconfig, refresh="10s" if rereads else "1h")


def sinks(links: Mapping[str, str]) -> str:
    """Return the sinks, by the URLs of the links that lead to them."""
    found = _SINKS.format(webhook=links["hook"])
    if "lake" in links:
        found += _LAKE.format(bucket=s3.BUCKET, s3=links["lake"])
    if "warehouse" in links:
        found += _WAREHOUSE.format(warehouse=links["warehouse"])
    return found
