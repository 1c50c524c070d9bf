"""`gpuid init`: writes a commented configuration from the contexts of a kubeconfig."""

import os
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import tomli_w

from collector import config as configuration
from collector.cli.suggestions import unknown_name
from collector.config import PRESETS, ConfigError, DefaultSettings, ServerSettings
from collector.kube.kubeconfig import contexts
from collector.text import counted, describe_os_error, escaped, one_line, shell_word

__all__ = ["init", "render"]

_LISTED_CONTEXTS = 10


class _TomlEscapes(dict[int, str]):
    """The escapes of what does not print, for str.translate: a terminal shows it, and does not obey it."""

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        if letter.isprintable() or letter == "\n":
            return letter
        return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


_TOML_ESCAPES = _TomlEscapes()


@click.command()
@click.option(
    "-o",
    "--output",
    default="gpuid.toml",
    show_default=True,
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="File to write; - is standard output.",
)
@click.option(
    "--kubeconfig",
    metavar="PATH",
    help="Kubeconfig, or several joined by a colon. Default: $KUBECONFIG, then ~/.kube/config.",
)
@click.option(
    "--context",
    "patterns",
    metavar="NAME",
    multiple=True,
    help="Only this context; * and ? are wildcards. May be given several times. Default: all.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def init(output: Path, kubeconfig: str | None, patterns: tuple[str, ...], force: bool) -> None:
    r"""Write a commented configuration with one cluster per context of your kubeconfig.

    No cluster is contacted; use `gpuid check` for that.

    \b
    Examples:
      gpuid init
      gpuid init --context 'prod-*' --context 'arn:aws:eks:*'
      gpuid init --kubeconfig ~/clusters/eu:~/clusters/us -o /etc/gpuid/gpuid.toml
    """
    found = contexts(kubeconfig)
    usable = [name for name, context in found.items() if name and not context.problem]
    left_out = {name: context.problem for name, context in found.items() if context.problem}
    if not usable:
        raise ConfigError(next(iter(left_out.values()), "the kubeconfig's only context has no name"))
    if named := next((name for name in patterns if name in left_out), None):
        raise ConfigError(f"--context: {left_out[named]}")
    names = _select(usable, patterns)
    same_server = _same_servers({name: found[name].server for name in names})
    text = render(names, kubeconfig=_absolute(kubeconfig or os.environ.get("KUBECONFIG")), same_server=same_server)
    configuration.parse(text, output)  # never write what `gpuid run` would reject
    if str(output) == "-":
        click.echo(text, nl=False)
    else:
        _write(output, text, force)
    for line in _summary(names, same_server) + [f"Left out: {one_line(problem)}" for problem in left_out.values()]:
        click.echo(line, err=str(output) == "-")
    if str(output) != "-":
        named = "" if output == Path("gpuid.toml") else f" -c {shell_word(str(output))}"
        click.echo(f"Wrote {escaped(str(output))}. Next:\n  gpuid check{named}    checks every cluster")
        click.echo(f"  gpuid run{named}      collects and serves")


def render(
    names: Sequence[str], *, kubeconfig: str | None, same_server: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the text of a configuration of these contexts; with `kubeconfig` None it has the default one.

    `same_server` maps a context to the one before it that has the same server.
    """
    defaults = DefaultSettings()
    (preset, *_) = defaults.active_sources
    return "\n".join(
        (
            "# Configuration of gpuid: check it with `gpuid check`, run it with `gpuid run`. A running collector",
            "# reloads this file when it changes. Durations are written as 30s, 5m or 1h.",
            "",
            "# Defaults for all clusters; each of these keys may also be set per cluster.",
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
            f"# sources = [{{ namespace = {_string(preset.namespace)}, selector = {_string(preset.selector)},"
            f" container = {_string(preset.container)} }}]",
            "# Maximum age of a reading; a node is also read again whenever its pod or its GPUs change.",
            '# refresh = "1h"',
            "# How long a node without a GPU pod keeps its series.",
            '# grace = "10m"',
            "# Label selector of the nodes to watch; empty: all.",
            '# node_selector = ""',
            "",
            "[server]",
            "# Address of metrics, API and page; use 127.0.0.1:8080 to serve this machine only.",
            _values(listen=str(ServerSettings().listen)),
            "# TLS and authentication:",
            '# cert_file = "tls.crt"',
            '# key_file = "tls.key"',
            '# client_ca_file = "clients.crt"',
            '# bearer_token_file = "token"',
            "",
            "# One table per cluster. `name` is the `cluster` label of its series: use the one of your dashboards.",
            *(
                f"{_warning(same_server, context)}[[clusters]]\n{_values(name=name, context=context)}\n"
                for context, name in _cluster_names(names).items()
            ),
        )
    )


def _same_servers(servers: Mapping[str, str]) -> dict[str, str]:
    """Map each context to the first one before it with the same server.

    They may still be different clusters: some proxies serve many clusters at one URL.
    """
    first: dict[str, str] = {}
    for name, server in servers.items():
        first.setdefault(server, name)
    return {name: first[server] for name, server in servers.items() if server and first[server] != name}


def _warning(same_server: Mapping[str, str], name: str) -> str:
    if name not in same_server:
        return ""
    return (
        f"# Same server as {_string(same_server[name])}. If both are the same cluster, remove one of the two: only the"
        " first is read.\n"
    )


def _values(**table: Any) -> str:
    """Return a table as TOML, with an escape for whatever does not print."""
    return tomli_w.dumps(table).rstrip("\n").translate(_TOML_ESCAPES)


def _string(text: str) -> str:
    return _values(x=text).removeprefix("x = ")


def _cluster_names(contexts: Collection[str]) -> dict[str, str]:
    """Map each context to the name of its cluster: its own, without the characters that a name may not have."""
    names: dict[str, str] = {}
    for context in contexts:
        name = "".join(letter if letter.isprintable() else "_" for letter in context)
        while name != context and (name in contexts or name in names.values()):
            name += "_"
        names[context] = name
    return names


def _select(names: Collection[str], patterns: Sequence[str]) -> list[str]:
    """Return the contexts that match a pattern, in the kubeconfig's order; raises ConfigError if one matches none."""
    matches = {
        pattern: {name for name in names if name == pattern or fnmatchcase(name, pattern)} for pattern in patterns
    }
    for pattern, matched in matches.items():
        if not matched:
            raise ConfigError(f"--context: {unknown_name('context', pattern, names)}")
    return [name for name in names if not patterns or any(name in matched for matched in matches.values())]


def _summary(names: Sequence[str], same_server: Mapping[str, str]) -> list[str]:
    lines = [f"Found {counted(len(names), 'context')}:"]
    lines += [f"  {escaped(name)}" for name in names[:_LISTED_CONTEXTS]]
    if len(names) > _LISTED_CONTEXTS:
        lines.append(f"  … and {len(names) - _LISTED_CONTEXTS} more")
    if same_server:
        lines.append(
            f"{len(same_server)} of them {'have' if len(same_server) > 1 else 'has'} the same server as another one; if"
            " both are the same cluster, remove one of the two (see the comments in the file)."
        )
    return lines


def _absolute(paths: str | None) -> str | None:
    """Return paths resolved against the current folder; those in a configuration are relative to its own folder."""
    parts = [Path(part).expanduser() for part in (paths or "").split(os.pathsep) if part]  # contexts() has tried them
    return os.pathsep.join(str(Path.cwd() / part) for part in parts) or None


def _write(path: Path, text: str, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: already exists; use --force to replace it") from error
    except OSError as error:
        raise ConfigError(f"{path}: {describe_os_error(error, 'cannot be written')}") from error
