"""Shell completion of values, from the configuration or a running collector: fast, bounded and silent."""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.shell_completion import CompletionItem

from collector import config as configuration
from collector.cli.options import found_config
from collector.config import Config, Duration
from collector.model import GpuidError

if TYPE_CHECKING:
    from collector.cli.client import Client

__all__ = [
    "complete_cluster",
    "complete_configured_cluster",
    "complete_context",
    "complete_id",
    "complete_model",
    "complete_node",
    "complete_sink",
]

MAX_VALUES = 50  # offered at most
_TIMEOUT = Duration(1)  # per query: nobody waits longer after pressing Tab
_SAMPLE_ROWS = 1000  # GPUs whose models are offered
MIN_NAME_LENGTH, MIN_GPU_LENGTH = 2, 3  # fewest characters for which a collector suggests; a test compares them
_CONNECTION = ("url", "config", "token_file", "user", "ca", "cert", "key")
_Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _quietly(find: Callable[[click.Context, str], Iterable[str]]) -> _Complete:
    """Return a function that completes a value with what `find` yields, or with nothing if it fails."""

    @functools.wraps(find)
    def complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        logging.disable(logging.CRITICAL)
        try:
            found = (name for name in dict.fromkeys(find(ctx, incomplete)) if name.startswith(incomplete))
            return [
                CompletionItem(name) for name, _ in zip(found, range(MAX_VALUES), strict=False) if name.isprintable()
            ]
        except (GpuidError, click.ClickException, OSError, ValueError):
            return []
        finally:
            logging.disable(logging.NOTSET)

    return complete


@_quietly
def complete_cluster(ctx: click.Context, _incomplete: str) -> Iterator[str]:
    """Yield the clusters of the configuration; without one, or with a URL, those of the collector."""
    config = None if ctx.params.get("url") else _config(ctx)
    if config is not None:
        yield from (cluster.name for cluster in config.clusters)
    else:
        yield from _column(ctx, "clusters", "cluster")


@_quietly
def complete_configured_cluster(ctx: click.Context, _incomplete: str) -> Iterator[str]:
    """Yield the clusters of the configuration."""
    config = _config(ctx)
    yield from () if config is None else (cluster.name for cluster in config.clusters)


@_quietly
def complete_sink(ctx: click.Context, _incomplete: str) -> Iterator[str]:
    """Yield the sinks of the configuration."""
    config = _config(ctx)
    yield from () if config is None else config.sinks


@_quietly
def complete_context(ctx: click.Context, _incomplete: str) -> Iterator[str]:
    """Yield the contexts of the kubeconfig."""
    from collector.kube.kubeconfig import contexts  # here, because nothing else in this module needs kube

    yield from contexts(ctx.params.get("kubeconfig"))


@_quietly
def complete_node(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """Yield nodes of the collector, restricted to the cluster given before, if any."""
    cluster = ctx.params.get("cluster") or ()
    names = [cluster] if isinstance(cluster, str) else list(cluster)
    if len(incomplete) < MIN_NAME_LENGTH or names:
        yield from _column(ctx, "nodes", "node", **({"cluster": names} if names else {}), q=incomplete or None)
    else:
        yield from _suggested(ctx, incomplete, "node")


@_quietly
def complete_id(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """Yield serials of the collector and other terms of a look-up."""
    if len(incomplete) < MIN_GPU_LENGTH:
        yield from _column(ctx, "gpus", "serial", q=incomplete or None)
    else:
        yield from _suggested(ctx, incomplete)


@_quietly
def complete_model(ctx: click.Context, _incomplete: str) -> Iterator[str]:
    """Yield models of the collector's GPUs."""
    yield from _column(ctx, "gpus", "model", limit=str(_SAMPLE_ROWS))


class _Suggestions(msgspec.Struct):
    suggestions: list[dict[str, Any]]


def _column(ctx: click.Context, kind: str, column: str, **params: Any) -> Iterator[str]:
    given = {name: value for name, value in params.items() if value is not None}
    with _client(ctx) as client:
        page = client.get(f"/api/v1/{kind}", {"fields": column, "limit": str(MAX_VALUES), **given}, dict[str, Any])
    rows = page.get(kind)
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and isinstance(value := row.get(column), str):
            yield value


def _suggested(ctx: click.Context, text: str, kind: str | None = None) -> Iterator[str]:
    with _client(ctx) as client:
        page = client.get("/api/v1/suggest", {"q": text}, _Suggestions)
    for one in page.suggestions:
        if kind is None or one.get("kind") == kind:
            yield str(one.get("text")).rpartition("/")[2] if kind == "node" else str(one.get("text"))


def _client(ctx: click.Context) -> "Client":
    from collector.cli.client import Client  # here, because only completion needs it

    given: dict[str, Any] = {name: ctx.params[name] for name in _CONNECTION if ctx.params.get(name) is not None}
    return Client(**{"url": None, **given}, timeout=_TIMEOUT)


def _config(ctx: click.Context) -> Config | None:
    path: Path | None = ctx.params.get("config") or found_config()
    return None if path is None else configuration.load(path, warn=False)
