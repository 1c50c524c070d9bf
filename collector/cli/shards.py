"""The options that make a collector one shard of several."""

import functools
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click

from collector.config import Config, ConfigError
from collector.config.store import SqliteLocation, locate
from collector.sharding import MAX_SHARDS, UNSHARDED, Shard, pod_ordinal

__all__ = ["AUTO", "check_sharded", "shard_options"]

AUTO = "auto"  # the ordinal of a StatefulSet's pod

F = TypeVar("F", bound=Callable[..., Any])


def shard_options(function: F) -> F:
    """Add `--shard` and `--total-shards`; the command gets `shard: Shard`."""

    @functools.wraps(function)
    def with_shard(*args: Any, shard: str | None, total_shards: int | None, **options: Any) -> Any:
        return function(*args, shard=_chosen(shard, total_shards), **options)

    decorated = click.option(
        "--total-shards",
        envvar="GPUID_TOTAL_SHARDS",
        metavar="N",
        type=click.IntRange(1, MAX_SHARDS),
        help="Number of shards that share the clusters and one PostgreSQL store; also $GPUID_TOTAL_SHARDS.",
    )(with_shard)
    return click.option(  # type: ignore[return-value]  # a wrapped function of the same kind
        "--shard",
        envvar="GPUID_SHARD",
        metavar="I",
        help="Read only the clusters of shard I, counted from 0; auto is the ordinal of a StatefulSet's pod. Also"
        " $GPUID_SHARD.",
    )(decorated)


def check_sharded(config: Config, shard: Shard) -> None:
    """Reject a configuration whose store the other shards cannot share; raises ConfigError."""
    if not shard.sharded:
        return
    if config.store is None:
        raise ConfigError("store: expected a PostgreSQL store, which all shards share; see [store] and --total-shards")
    if isinstance(locate(config.store.url), SqliteLocation):
        raise ConfigError("store.url: expected a postgresql:// URL, which all shards share, got an SQLite file")


def _chosen(shard: str | None, total: int | None) -> Shard:
    if shard is None and total in (None, 1):
        return UNSHARDED
    if shard is None:
        raise click.UsageError("--total-shards: expected --shard as well, which says which of them this one is")
    if total is None:
        raise click.UsageError("--shard: expected --total-shards as well, which says how many there are")
    try:
        return Shard(_index(shard), total)
    except ValueError as error:
        raise click.UsageError(f"--shard: {error}") from None


def _index(text: str) -> int:
    if text == AUTO:
        return pod_ordinal(socket.gethostname())
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SHARDS))):
        raise ValueError(f'expected a number from 0, or {AUTO}, got "{text}"')
    return int(text)
