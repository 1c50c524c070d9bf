"""`gpuid init`: writes a commented configuration from a kubeconfig's contexts, with a preset for each cluster."""

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import anyio
import click
import msgspec

from collector import config as configuration
from collector.checks.fitting import Fit
from collector.checks.gpu_pods import find_fits
from collector.cli.completion import complete_context
from collector.cli.initial_config import NewCluster, cluster_names, render, render_clusters, store_url, string
from collector.cli.logs import configure
from collector.cli.options import LISTEN, TIMEOUT, file_option
from collector.cli.progress import counting_bar
from collector.cli.suggestions import unknown_name
from collector.config import ClusterSettings, Config, ConfigError, DefaultSettings, Duration, Listen
from collector.files import replace_file
from collector.kube.kubeconfig import Context, contexts
from collector.text import counted, describe_os_error, escaped, one_line, shell_word

__all__ = ["init"]

_LISTED_CONTEXTS = 10  # of contexts that were not asked
_MAX_REASON = 300  # characters of the reason why a cluster could not be asked
_LISTEN = Listen("127.0.0.1:8080")


class _Answer(msgspec.Struct, frozen=True):
    """The result for one cluster: what fits it, or why that is unknown."""

    fit: Fit | None
    reason: str = ""

    @property
    def setting(self) -> str:
        """The preset or sources that fit, as TOML; empty if the default preset is kept."""
        return self.fit.setting_block if self.fit is not None else ""

    @property
    def comments(self) -> list[str]:
        """The comments in the configuration, in sentences."""
        if self.fit is None:
            clauses = [
                f"could not be asked: {self.reason}",
                "it keeps the default preset; `gpuid check` suggests what fits",
            ]
        else:
            clauses = [self.fit.seen, self.fit.caution, self.fit.lacking, self.fit.remedy, self.fit.survey.limits]
        return [f"{clause[0].upper()}{clause[1:]}." for clause in clauses if clause]

    @property
    def summary(self) -> str:
        """The line about it on standard output."""
        if self.fit is None:
            return f"could not be asked and keeps the default preset: {self.reason}"
        found = f"{self.fit.setting or 'keeps the default preset'}: {self.fit.seen}"
        return "; ".join(filter(None, (found, self.fit.caution, self.fit.lacking, self.fit.survey.limits)))


@click.command()
@file_option(default="gpuid.toml", help="File to write; - is standard output.")
@click.option(
    "--kubeconfig",
    metavar="PATH",
    help="Kubeconfig, or several separated by colons. Default: $KUBECONFIG, then (with --add) that of the file, then"
    " ~/.kube/config.",
)
@click.option(
    "--context",
    "patterns",
    metavar="NAME",
    multiple=True,
    shell_complete=complete_context,
    help="Only this context; * and ? are wildcards. May be given several times. Default: all.",
)
@click.option(
    "--add", is_flag=True, help="Add contexts that are not in the file yet, and leave the rest of it unchanged."
)
@click.option("--offline", is_flag=True, help="Do not contact the clusters to find out what fits them.")
@click.option("--timeout", type=TIMEOUT, default="30s", show_default=True, help="Timeout per cluster.")
@click.option(
    "--listen", type=LISTEN, metavar="HOST:PORT", help="Address of metrics, API and page. Default: 127.0.0.1:8080."
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def init(
    file: Path,
    kubeconfig: str | None,
    patterns: tuple[str, ...],
    add: bool,
    offline: bool,
    timeout: Duration,
    listen: Listen | None,
    force: bool,
) -> None:
    r"""Write a commented configuration with one cluster per context of your kubeconfig.

    This looks in each cluster for pods that can be read: it lists the nodes, and the pods of every preset in all
    namespaces or, without that right, in those where it may list them. It then writes the preset or sources that
    fit. A cluster that cannot be reached keeps the default preset, with a comment that says why.

    \b
    Examples:
      gpuid init
      gpuid init --context 'prod-*' --context 'arn:aws:eks:*'
      gpuid init --kubeconfig ~/clusters/eu:~/clusters/us -f /etc/gpuid/gpuid.toml
      gpuid init --add
    """
    _check_options(file, add=add, force=force, listen=listen)
    before = _read(file) if add else b""
    known = configuration.load(file, before, may_be_empty=True) if add else Config()
    inherited = _inherited_kubeconfig(known, file)
    given = kubeconfig or os.environ.get("KUBECONFIG")
    found = contexts(kubeconfig if given else inherited)
    source = _absolute(given) or inherited
    names, left_out = _choose(found, patterns)
    if add:
        there = {(cluster.context, _files(cluster.kubeconfig)) for cluster in known.clusters}
        names = [name for name in names if (name, _files(source)) not in there]
    answers = {} if offline or not names else _ask(names, source, known.defaults, timeout)
    same_server = _same_servers({name: found[name].server for name in names})
    clusters = [
        NewCluster(
            name=name,
            context=context,
            kubeconfig=source if add and source != inherited else None,
            comments=(*_warning(same_server, context), *(answers[context].comments if context in answers else ())),
            setting=answers[context].setting if context in answers else "",
        )
        for context, name in cluster_names(names, [cluster.name for cluster in known.clusters]).items()
    ]
    if add:
        if clusters:
            _add(file, before, render_clusters(clusters))
        _print_summary(answers, names, same_server, left_out, to_stderr=False)
        if clusters:
            _print_end(file, f"Added {counted(len(clusters), 'cluster')} to")
        else:
            click.echo(f"Nothing to add: {escaped(str(file))} already has all of these contexts.")
        return
    text = render(clusters, kubeconfig=source, listen=str(listen or _LISTEN), store=store_url(file))
    configuration.parse(text, file)  # never write what `gpuid run` would reject
    to_stdout = str(file) == "-"
    if to_stdout:
        click.echo(text, nl=False)
    else:
        _write(file, text.encode(), replace=force)
    _print_summary(answers, names, same_server, left_out, to_stderr=to_stdout)
    if not to_stdout:
        _print_end(file, "Wrote")


def _check_options(output: Path, *, add: bool, force: bool, listen: Listen | None) -> None:
    """Reject impossible options before asking any cluster, which may take a while."""
    to_stdout = str(output) == "-"
    if add and (force or listen is not None or to_stdout):
        other = "--force" if force else "-f -" if to_stdout else "--listen"
        raise click.UsageError(f"--add cannot be used with {other}")
    if not add and not to_stdout:
        if not force and output.exists():
            raise _exists(output)
        if not output.absolute().parent.is_dir():
            raise ConfigError(f"{output}: no such file or directory")


def _exists(output: Path) -> ConfigError:
    return ConfigError(f"{output}: already exists; use --force to replace it, or --add to add to it")


def _choose(found: Mapping[str, Context], patterns: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the contexts to write, and why the others cannot be used."""
    usable = [name for name, context in found.items() if name and not context.problem]
    left_out = {name: context.problem for name, context in found.items() if context.problem}
    if not usable:
        raise ConfigError(next(iter(left_out.values()), "the kubeconfig's only context has no name"))
    if named := next((name for name in patterns if name in left_out), None):
        raise ConfigError(f"--context: {left_out[named]}")
    return _select(usable, patterns), list(left_out.values())


def _select(names: Collection[str], patterns: Sequence[str]) -> list[str]:
    """Return the contexts that match a pattern, in the kubeconfig's order; raises ConfigError if one matches none."""
    matches = {
        pattern: {name for name in names if name == pattern or fnmatchcase(name, pattern)} for pattern in patterns
    }
    for pattern, matched in matches.items():
        if not matched:
            raise ConfigError(f"--context: {unknown_name('context', pattern, names)}")
    return [name for name in names if not patterns or any(name in matched for matched in matches.values())]


def _ask(names: Sequence[str], kubeconfig: str | None, defaults: DefaultSettings, timeout: float) -> dict[str, _Answer]:
    """Ask all clusters in parallel what fits them."""
    settings = msgspec.structs.asdict(defaults) | {"kubeconfig": kubeconfig}
    clusters = [ClusterSettings(**settings, context=name, name=str(index)) for index, name in enumerate(names)]
    configure("error", "text")
    with counting_bar("asking clusters", len(clusters)) as advance:
        checks = anyio.run(find_fits, clusters, timeout, advance)
    return {
        name: _Answer(check.fit, "; ".join(one_line(problem.text, _MAX_REASON) for problem in check.finding.problems))
        for name, check in zip(names, checks, strict=True)
    }


def _same_servers(servers: Mapping[str, str]) -> dict[str, str]:
    """Map each context to the first one before it with the same server.

    They may still be different clusters: some proxies serve many clusters at one URL.
    """
    first: dict[str, str] = {}
    for name, server in servers.items():
        first.setdefault(server, name)
    return {name: first[server] for name, server in servers.items() if server and first[server] != name}


def _warning(same_server: Mapping[str, str], name: str) -> Iterator[str]:
    if name in same_server:
        other = string(same_server[name])
        yield f"Same server as {other}. If they are the same cluster, remove one of them: only the first is read."


def _print_summary(
    answers: Mapping[str, _Answer],
    names: Sequence[str],
    same_server: Mapping[str, str],
    left_out: Sequence[str],
    *,
    to_stderr: bool,
) -> None:
    lines = [f"Found {counted(len(names), 'context')}:"] if names else []
    if answers:
        lines += [f"  {escaped(name)}: {answers[name].summary}" for name in names]
    else:
        lines += [f"  {escaped(name)}" for name in names[:_LISTED_CONTEXTS]]
        if len(names) > _LISTED_CONTEXTS:
            lines.append(f"  … and {len(names) - _LISTED_CONTEXTS} more")
    if same_server:
        lines.append(
            f"{len(same_server)} of them {'have' if len(same_server) > 1 else 'has'} the same server as another one;"
            " if they are the same cluster, remove one of them (see the comments in the file)."
        )
    lines += [f"Skipped: {one_line(problem)}" for problem in left_out]
    for line in lines:
        click.echo(line, err=to_stderr)


def _print_end(output: Path, done: str) -> None:
    named = "" if output == Path("gpuid.toml") else f" -c {shell_word(str(output))}"
    click.echo(f"{done} {escaped(str(output))}. Next:\n  gpuid check{named}    checks every cluster")
    click.echo(f"  gpuid run{named}      collects and serves")


def _absolute(paths: str | None, folder: Path | None = None) -> str | None:
    """Return paths resolved against the current folder or the given one."""
    return os.pathsep.join(str((folder or Path.cwd()) / _expanded(part)) for part in _split(paths)) or None


def _inherited_kubeconfig(known: Config, file: Path) -> str | None:
    """Return the kubeconfig in a configuration's [defaults], with paths relative to the file's folder."""
    return _absolute(known.defaults.kubeconfig, file.absolute().parent)


def _files(kubeconfig: str | None) -> tuple[str, ...]:
    """Return the files that a kubeconfig setting stands for."""
    paths = kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
    return tuple(os.path.realpath(_expanded(part)) for part in _split(paths))


def _split(paths: str | None) -> list[str]:
    return [part for part in (paths or "").split(os.pathsep) if part]


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # "~name" of an unknown user
        return Path(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {describe_os_error(error, 'cannot be read')}") from error


def _add(path: Path, before: bytes, tables: str) -> None:
    """Append cluster tables to a configuration; raises ConfigError if that would make it invalid."""
    line_end = "\r\n" if b"\r\n" in before else "\n"
    text = ("\n" if before.endswith(b"\n") else "\n\n") + tables
    after = before + text.replace("\n", line_end).encode()
    try:
        configuration.load(path, after, warn=False)
    except ConfigError as error:
        raise ConfigError(
            f"{error} (after appending [[clusters]] tables; write the existing clusters as [[clusters]] tables, too)"
        ) from error
    if _read(path) != before:
        raise ConfigError(f"{path}: changed in the meantime; try again")
    _write(path, after, replace=True)


def _write(path: Path, content: bytes, *, replace: bool) -> None:
    """Write a file completely or not at all; anything but a regular file, such as a pipe, is written directly."""
    target = path.resolve()  # a link stays a link
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(content)
            return
        created = not target.exists()
        target.touch(exist_ok=replace)  # created exclusively, with the mode that the umask leaves
        try:
            replace_file(target, content, stat.S_IMODE(target.stat().st_mode))
        except BaseException:
            if created:
                target.unlink()
            raise
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise ConfigError(f"{path}: {describe_os_error(error, 'cannot be written')}") from error
