"""`gpuid init`: a commented configuration from the contexts of a kubeconfig."""

import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import tomli_w

from collector import config as configuration
from collector.config import PRESETS, ConfigError, DefaultSettings, ServerSettings
from collector.kube.kubeconfig import contexts

__all__ = ["init", "render"]

_LISTED = 10


@click.command()
@click.option(
    "-o",
    "--output",
    default="gpuid.toml",
    show_default=True,
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Where to write the configuration; - is standard output.",
)
@click.option(
    "--kubeconfig",
    metavar="PATH",
    help="The kubeconfig, or several joined by a colon. Default: $KUBECONFIG, then ~/.kube/config.",
)
@click.option(
    "--context",
    "patterns",
    metavar="NAME",
    multiple=True,
    help="Only this context; * and ? match any characters. May be given several times. Default: all.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def init(output: Path, kubeconfig: str | None, patterns: tuple[str, ...], force: bool) -> None:
    r"""Write a commented configuration with one cluster per context of your kubeconfig.

    Nothing is sent to any cluster: `gpuid check` does that next.

    \b
    Examples:
      gpuid init
      gpuid init --context 'prod-*' --context 'arn:aws:eks:*'
      gpuid init --kubeconfig ~/clusters/eu:~/clusters/us -o /etc/gpuid/gpuid.toml
    """
    found = contexts(kubeconfig)
    names = _chosen([name for name in found if name], patterns)
    alike = _alike({name: found[name].server for name in names})
    text = render(names, kubeconfig=_absolute(kubeconfig or os.environ.get("KUBECONFIG")), alike=alike)
    configuration.parse(text, output)  # never hand out what `run` would refuse
    if str(output) == "-":
        click.echo(text, nl=False)
    else:
        _write(output, text, force)
    for line in _found(names, alike):
        click.echo(line, err=str(output) == "-")
    if str(output) != "-":
        named = "" if output == Path("gpuid.toml") else f" -c {shlex.quote(str(output))}"
        click.echo(f"Wrote {output}. Next:\n  gpuid check{named}    tries every cluster")
        click.echo(f"  gpuid run{named}      collects and serves")


def render(names: Sequence[str], *, kubeconfig: str | None, alike: Mapping[str, str] = MappingProxyType({})) -> str:
    """Write the configuration of these contexts; `kubeconfig` None leaves it to the default.

    `alike` tells of a context which one before it has the same server.
    """
    defaults = DefaultSettings()
    preset = PRESETS[defaults.preset]
    return "\n".join(
        (
            "# The configuration of gpuid: `gpuid check` tries it, `gpuid run` runs it, and a running collector",
            "# follows every change of [[clusters]] and [defaults] in this file. Durations are written 30s, 5m, 1h.",
            "",
            "# What holds for every cluster that does not say otherwise; any of these keys may stand in a cluster too.",
            "[defaults]",
            *(
                (_values(kubeconfig=kubeconfig),)
                if kubeconfig
                else (
                    "# The kubeconfig; without it $KUBECONFIG, then ~/.kube/config.",
                    '# kubeconfig = "~/.kube/config"',
                )
            ),
            f"# Which pods can see the GPUs: {', '.join(PRESETS)}.",
            _values(preset=defaults.preset),
            "# Or name them instead of a preset; on one node the first source with a ready pod is asked:",
            f"# sources = [{{ namespace = {_string(preset.namespace)}, selector = {_string(preset.selector)},"
            f" container = {_string(preset.container)} }}]",
            "# A node is read again when this much time has passed, besides whenever its pod or its GPUs change.",
            '# refresh = "1h"',
            "# How long a node without a GPU pod keeps its series.",
            '# grace = "10m"',
            "# Which nodes to watch, as a label selector; empty watches all.",
            '# node_selector = ""',
            "",
            "[server]",
            "# Where metrics, API and page are served; 127.0.0.1:8080 keeps them on this machine.",
            _values(listen=str(ServerSettings().listen)),
            "# HTTPS, and who may ask:",
            '# cert_file = "tls.crt"',
            '# key_file = "tls.key"',
            '# bearer_token_file = "token"',
            "",
            "# One table per cluster. `name` is the `cluster` label of its series: make it what your dashboards use.",
            *(
                f"{_warning(alike, context)}[[clusters]]\n{_values(name=name, context=context)}\n"
                for context, name in _cluster_names(names).items()
            ),
        )
    )


def _alike(servers: Mapping[str, str]) -> dict[str, str]:
    """Tell of each context with the server of one before it which that is; proxies serve many clusters at one URL."""
    first: dict[str, str] = {}
    for name, server in servers.items():
        first.setdefault(server, name)
    return {name: first[server] for name, server in servers.items() if server and first[server] != name}


def _warning(alike: Mapping[str, str], name: str) -> str:
    if name not in alike:
        return ""
    return (
        f"# The same server as {_string(alike[name])}. If they are one cluster, keep the context that you want it to be"
        " read by:\n# of two names for one cluster only the first is read.\n"
    )


def _values(**table: Any) -> str:
    return tomli_w.dumps(table).rstrip("\n")


def _string(text: str) -> str:
    return _values(x=text).removeprefix("x = ")


def _cluster_names(contexts: Collection[str]) -> dict[str, str]:
    """Name each cluster as its context, but for letters that no name may have."""
    named: dict[str, str] = {}
    for context in contexts:
        name = "".join(letter if letter.isprintable() else "_" for letter in context)
        while name != context and (name in contexts or name in named.values()):
            name += "_"
        named[context] = name
    return named


def _chosen(names: Collection[str], patterns: Sequence[str]) -> list[str]:
    """Keep the contexts that a pattern names, in the kubeconfig's order; a pattern that names none is an error."""
    if not names:
        raise ConfigError("the kubeconfig has no contexts; `kubectl config get-contexts` lists them")
    matches = {
        pattern: {name for name in names if name == pattern or fnmatchcase(name, pattern)} for pattern in patterns
    }
    for pattern, matched in matches.items():
        if not matched:
            nearest = get_close_matches(pattern, names, n=len(names), cutoff=0.0)
            raise ConfigError(f'--context: no context matches "{pattern}"; there are {_listed(nearest)}')
    return [name for name in names if not patterns or any(name in matched for matched in matches.values())]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _found(names: Sequence[str], alike: Mapping[str, str]) -> list[str]:
    lines = [f"Found {len(names)} context{'s' if len(names) > 1 else ''}:"]
    lines += [f"  {name}" for name in names[:_LISTED]]
    if len(names) > _LISTED:
        lines.append(f"  … and {len(names) - _LISTED} more")
    if alike:
        lines.append(
            f"{len(alike)} of them {'have' if len(alike) > 1 else 'has'} the server of another one; if they are one"
            " cluster, remove one of the two (the file says which)."
        )
    return lines


def _absolute(paths: str | None) -> str | None:
    """Resolve paths against the current folder, as the shell does; in a configuration its own folder counts."""
    parts = [Path(part).expanduser() for part in (paths or "").split(os.pathsep) if part]
    return os.pathsep.join(str(Path.cwd() / part) for part in parts) or None


def _write(path: Path, text: str, force: bool) -> None:
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path}: exists already; --force replaces it") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
