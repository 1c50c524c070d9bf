"""The text of a new configuration, and of clusters added to one."""

import itertools
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from collector.config import PRESETS, DefaultSettings, ServerSettings
from collector.config.store import StoreSettings

__all__ = ["NewCluster", "cluster_names", "render", "render_clusters", "store_url", "string", "toml"]

_COMMENT_WIDTH = 118  # characters per line


class _TomlEscapes(dict[int, str]):
    """Escapes of unprintable characters for str.translate, so that a terminal shows instead of obeying them."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        if letter.isprintable() or letter == "\n":
            return letter
        return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


_TOML_ESCAPES = _TomlEscapes()


class NewCluster(msgspec.Struct, frozen=True, kw_only=True):
    """One [[clusters]] table."""

    name: str
    context: str
    kubeconfig: str | None = None  # if it differs from the defaults
    comments: tuple[str, ...] = ()  # one line each
    setting: str = ""  # the preset or sources, as TOML


def render(clusters: Sequence[NewCluster], *, kubeconfig: str | None, listen: str, store: str) -> str:
    """Return the text of a configuration; `kubeconfig` None means the default one."""
    defaults = DefaultSettings()
    (preset, *_) = defaults.active_sources
    return "\n".join(
        (
            "# gpuid configuration: check it with `gpuid check`, run it with `gpuid run`. A running collector",
            "# reloads this file when it changes. Durations are written as 30s, 5m or 1h.",
            "",
            "# Defaults for all clusters; each key may also be set per cluster.",
            "[defaults]",
            *(
                (_values(kubeconfig=kubeconfig),)
                if kubeconfig
                else (
                    "# Kubeconfig file. Default: $KUBECONFIG, then ~/.kube/config.",
                    '# kubeconfig = "~/.kube/config"',
                )
            ),
            f"# Pods that can run nvidia-smi, by preset: {', '.join(PRESETS)}.",
            _values(preset=defaults.preset),
            "# Or list sources instead of a preset; on each node, the first source with a ready pod is used:",
            f"# sources = [{{ namespace = {string(preset.namespace)}, selector = {string(preset.selector)},"
            f" container = {string(preset.container)} }}]",
            "# Maximum age of a reading; a node is also read again whenever its pod or its GPUs change.",
            '# refresh = "1h"',
            "# How long a node without a GPU pod keeps its series.",
            '# grace = "10m"',
            "# Label selector of the nodes to watch; empty: all.",
            '# node_selector = ""',
            "",
            "[server]",
            f"# Address of metrics, API and page; use {ServerSettings().listen} to serve other machines.",
            _values(listen=listen),
            "# TLS and authentication:",
            '# cert_file = "tls.crt"',
            '# key_file = "tls.key"',
            '# client_ca_file = "clients.crt"',
            '# bearer_token_file = "token"',
            "",
            "# The history of every GPU, for `gpuid where`, `history` and `diff`, and for sinks.",
            "[store]",
            _values(url=store),
            "# History that ended longer ago is deleted. Default: kept forever.",
            '# retention = "365d"',
            "# Sinks receive changes as records: [sinks.NAME] with the type stdout, webhook, s3 or postgres.",
            "",
            "# One table per cluster. `name` is the `cluster` label of its series: use the name in your dashboards.",
            "",
            render_clusters(clusters),
        )
    )


def render_clusters(clusters: Sequence[NewCluster]) -> str:
    """Return the cluster tables."""
    return "\n".join(map(_table, clusters))


def _table(cluster: NewCluster) -> str:
    keys = {"name": cluster.name, "context": cluster.context, "kubeconfig": cluster.kubeconfig}
    lines = [line for comment in cluster.comments for line in _comment(comment)]
    lines += ["[[clusters]]", _values(**{key: value for key, value in keys.items() if value is not None})]
    return "".join(f"{line}\n" for line in (*lines, cluster.setting) if line)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _COMMENT_WIDTH, break_long_words=False, break_on_hyphens=False)]


def _values(**table: Any) -> str:
    """Return a table as TOML, with unprintable characters escaped."""
    return toml(table).rstrip("\n")


def toml(document: Mapping[str, Any]) -> str:
    """Return a document as TOML, with unprintable characters escaped."""
    return tomli_w.dumps(document).translate(_TOML_ESCAPES)


def string(text: str) -> str:
    """Return a text as TOML."""
    return _values(x=text).removeprefix("x = ")


def store_url(output: Path) -> str:
    """Return the URL of an SQLite file next to the configuration, or in the default folder for one below /etc."""
    folder = output.absolute().parent
    if ".." in folder.parts:
        folder = folder.resolve()
    if Path("/etc") in (folder, *folder.parents):
        folder = Path(StoreSettings().url.removeprefix("sqlite://")).parent
    name = "gpuid" if str(output) == "-" else output.stem
    path = f"{folder}/{name}.db"
    return "sqlite://" + path.translate({ord(letter): f"%{ord(letter):02X}" for letter in "%?\n"})


def cluster_names(contexts: Collection[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Map each context to a cluster name: its own, without characters that are not allowed in names.

    A name that is `taken` gets a number.
    """
    names: dict[str, str] = {}
    for context in contexts:
        name = "".join(letter if letter.isprintable() else "_" for letter in context)
        while name != context and (name in contexts or name in names.values()):
            name += "_"
        names[context] = name if name not in taken else _numbered(name, {*contexts, *names.values(), *taken})
    return names


def _numbered(name: str, taken: Collection[str]) -> str:
    return next(numbered for number in itertools.count(2) if (numbered := f"{name}-{number}") not in taken)
