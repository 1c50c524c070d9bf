"""`gpuid grant`: grants a collector minimal rights in its clusters, revokes them, and issues its tokens."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import anyio
import click
import msgspec

from collector import config as configuration
from collector.checks.check import CONCURRENT_CLUSTERS, run_checks
from collector.cli.completion import complete_configured_cluster
from collector.cli.console import error_console
from collector.cli.errors import CommandError
from collector.cli.logs import configure
from collector.cli.options import TIMEOUT, ParsedText, config_option
from collector.cli.suggestions import listed, unknown_name
from collector.config import ClusterSettings, ConfigError, Duration
from collector.grant.contexts import CollectorContext, check_target, make_secret, write
from collector.grant.documents import dump
from collector.grant.granting import Options, Outcome, manifests_for
from collector.grant.manifests import needs_policy
from collector.grant.work import Action, Identify, Work
from collector.kube.token_request import MIN_LIFETIME_SECONDS
from collector.text import counted, escaped, one_line, shell_word

__all__ = ["grant"]

_MAX_SECRET_BYTES = 1 << 20  # that an API server stores
_POLICY_HEAD = """\
# The admission policies need Kubernetes 1.30. If kubectl rejects them, nothing limits pods/exec to one command or
# node patches to labels: delete these rights again, or use `gpuid grant --apply`, which then grants nothing.
"""
_AUDIENCE_HEAD = """\
# The policy gpuid-token allows the audiences of most API servers. For others (such as GKE), pass --audience or use
# --apply, which asks the server; otherwise tokens cannot be renewed.
"""
_IN_TIME = (
    "The collector cannot replace tokens in a Secret: run this again before they expire. Running pods take up new ones."
)
_FULL_LIFETIME_SHARE = 0.95  # of the requested lifetime: a token that expires earlier was shortened by the server


def _duration(text: object) -> Duration:
    if (duration := Duration.parse(text)) < MIN_LIFETIME_SECONDS:
        raise ValueError("must be at least 10m, the minimum of API servers")
    return duration


@click.command()
@config_option
@click.argument("names", nargs=-1, metavar="[CLUSTER]…", shell_complete=complete_configured_cluster)
@click.option("--all", "everything", is_flag=True, help="All clusters in the configuration.")
@click.option(
    "--apply", "applies", is_flag=True, help="Apply the rights, with the credentials of the cluster's context."
)
@click.option(
    "--check", "checks", is_flag=True, help="Show differences from the expected rights; exit code 1 if there are any."
)
@click.option(
    "--revoke",
    "revokes",
    is_flag=True,
    help="Delete everything that --apply created, which revokes every token immediately.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation before --revoke.")
@click.option(
    "--kubeconfig",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write contexts with new tokens for the collector to this kubeconfig.",
)
@click.option("--secret", is_flag=True, help="Print a Secret with such a kubeconfig, for a collector in Kubernetes.")
@click.option(
    "--duration",
    type=ParsedText("duration", _duration),
    default="30d",
    show_default=True,
    help="Lifetime of new tokens, and maximum of renewed ones; the server may shorten it.",
)
@click.option(
    "--audience",
    multiple=True,
    metavar="URL",
    help="Audience for which tokens may be renewed. Default: the API server's own, which --apply and --check look up.",
)
@click.option("--no-renewal", is_flag=True, help="Do not grant the right to renew these tokens.")
@click.option(
    "--without-policy",
    is_flag=True,
    help="Omit the admission policies: exec may run any command, and `labels = true` may change any part of a node.",
)
@click.option(
    "--admin-kubeconfig",
    metavar="PATH",
    help="Kubeconfig with the credentials to use. Default: that of the configuration.",
)
@click.option("--timeout", type=TIMEOUT, default="30s", show_default=True, help="Timeout per cluster.")
@click.pass_context
def grant(
    ctx: click.Context,
    config: Path,
    names: tuple[str, ...],
    everything: bool,
    applies: bool,
    checks: bool,
    revokes: bool,
    yes: bool,
    kubeconfig: Path | None,
    secret: bool,
    duration: Duration,
    audience: tuple[str, ...],
    no_renewal: bool,
    without_policy: bool,
    admin_kubeconfig: str | None,
    timeout: Duration,
) -> None:
    r"""Print or apply the minimal rights that gpuid needs in clusters, given by name or context.

    Without options, this prints manifests for kubectl apply and contacts no cluster. They contain a service
    account, what it may list and watch, and admission policies (Kubernetes 1.30) that allow it to run only the
    configured command. If kubectl rejects the policies, exec allows any command: delete the rights, or use
    --apply, which checks first. Clusters whose logs are read need no exec.

    --kubeconfig and --secret issue tokens for that service account, which the collector renews itself. A
    kubeconfig keeps its existing contexts; each token has its own file next to it. Contexts have the same names
    as yours, so only `kubeconfig` changes in the collector's gpuid.toml.

    \b
    Examples:
      gpuid grant prod | kubectl --context prod apply -f -
      gpuid grant --all --apply --kubeconfig collector.kubeconfig
      gpuid grant --all --apply --secret | kubectl --context hub apply --server-side -f -
      gpuid grant --check
      gpuid grant prod --revoke
    """
    configure("error", "text")
    tokens = kubeconfig is not None or secret
    action = _action(applies, checks, revokes, tokens=tokens)
    if kubeconfig is not None and secret:
        raise click.UsageError("expected either --kubeconfig or --secret")
    clusters = _select(configuration.load(config).clusters, names, everything, action)
    options = Options(
        renewal=not no_renewal, policy=not without_policy, audiences=tuple(audience), seconds=int(duration)
    )
    if action is Action.PRINT:
        click.echo(_manifests(clusters, options), nl=False)
        return
    if admin_kubeconfig is not None:
        clusters = [msgspec.structs.replace(cluster, kubeconfig=admin_kubeconfig) for cluster in clusters]
    if action is Action.REVOKE and not yes:
        _confirm(clusters)
    contexts = _check_contexts(clusters) if tokens else []
    if kubeconfig is not None:
        check_target(kubeconfig, contexts)
    seconds = int(duration) if tokens else None
    work = [Work(cluster, action, options, seconds, timeout) for cluster in clusters]
    with error_console().status(f"Asking {counted(len(clusters), 'cluster')} …"):
        anyio.run(_run, work, clusters, timeout)
    for one in work:
        _report(one, err=secret)
    failed = [one.finding.name for one in work if not one.finding.ok]
    if tokens:
        _hand_out([one.context for one in work if one.context is not None], failed, kubeconfig)
    ctx.exit(0 if all(one.complete for one in work) or (action is Action.REVOKE and not failed) else 1)


async def _run(work: Sequence[Work], clusters: Sequence[ClusterSettings], timeout: float) -> None:
    if len(work) > 1 and work[0].action is Action.APPLY:
        looks = [Identify(cluster, timeout) for cluster in clusters if cluster.context is not None]
        await run_checks(looks, timeout, concurrency=CONCURRENT_CLUSTERS)
        names: dict[str, str] = {}
        for look in looks:
            other = names.setdefault(look.identity, look.finding.name) if look.identity else look.finding.name
            if other != look.finding.name:
                raise ConfigError(_one_set(other, look.finding.name, "are the same cluster"))
    await run_checks(work, timeout, concurrency=CONCURRENT_CLUSTERS)


def _one_set(name: str, other: str, relation: str) -> str:
    return (
        f"{one_line(name)} and {one_line(other)} {relation}, which has one set of rights; name one of them,"
        " with all sources"
    )


def _action(applies: bool, checks: bool, revokes: bool, *, tokens: bool) -> Action:
    chosen = {Action.APPLY: applies, Action.CHECK: checks, Action.REVOKE: revokes}
    actions = [action for action, given in chosen.items() if given]
    if len(actions) > 1:
        raise click.UsageError("expected one of --apply, --check and --revoke")
    if actions and tokens and actions != [Action.APPLY]:
        raise click.UsageError(f"--{actions[0].value}: expected neither --kubeconfig nor --secret")
    return actions[0] if actions else Action.NOTHING if tokens else Action.PRINT


def _select(
    clusters: Sequence[ClusterSettings], names: Sequence[str], everything: bool, action: Action
) -> list[ClusterSettings]:
    """Return the selected clusters; actions that change clusters must name them if there are several."""
    if everything and names:
        raise click.UsageError("expected either clusters or --all")
    if not names and not everything and len(clusters) > 1 and action not in (Action.PRINT, Action.CHECK):
        known = listed([cluster.name for cluster in clusters])
        raise click.UsageError(f"expected names of clusters, or --all; there are {known}")
    chosen = [_named(clusters, name) for name in dict.fromkeys(names)] if names else list(clusters)
    chosen = list({cluster.name: cluster for cluster in chosen}.values())
    if action is Action.PRINT:
        return chosen
    contexts: dict[tuple[str | None, str | None], str] = {}
    for cluster in chosen:
        other = contexts.setdefault((cluster.kubeconfig, cluster.context), cluster.name)
        if other != cluster.name and cluster.context is not None:
            raise ConfigError(_one_set(other, cluster.name, "have the same context"))
    return chosen


def _check_contexts(clusters: Sequence[ClusterSettings]) -> list[str]:
    """Return the names of the contexts to write; raises ConfigError if two clusters have the same."""
    names: dict[str, str] = {}
    for cluster in clusters:
        if cluster.context is None:
            continue
        if (other := names.setdefault(cluster.context, cluster.name)) != cluster.name:
            raise ConfigError(
                f"{one_line(other)} and {one_line(cluster.name)} have contexts of the same name in two kubeconfigs,"
                " and one kubeconfig cannot hold both; name one of them, or rename a context"
            )
    return list(names)


def _named(clusters: Sequence[ClusterSettings], name: str) -> ClusterSettings:
    by_name = {cluster.name: cluster for cluster in clusters}
    by_context = {cluster.context: cluster for cluster in clusters if cluster.context}
    if (found := by_name.get(name) or by_context.get(name)) is not None:
        return found
    raise ConfigError(unknown_name("cluster", name, [*by_name, *(one for one in by_context if one not in by_name)]))


def _manifests(clusters: Sequence[ClusterSettings], options: Options) -> str:
    """Return the manifests as text; raises ConfigError if clusters need different ones."""
    version = "v1" if options.policy else None
    texts = {cluster.name: dump(manifests_for(cluster, options, version)) for cluster in clusters}
    first = next(iter(texts))
    other = next((name for name, text in texts.items() if text != texts[first]), None)
    if other is not None:
        raise ConfigError(
            f"{one_line(first)} and {one_line(other)} need different rights; name one cluster, or use --apply"
        )
    head = f"# The rights of gpuid in {listed(list(texts))}.\n"
    if version is not None and any(map(needs_policy, clusters)):
        head += _POLICY_HEAD
    if version is not None and options.renewal and not options.audiences:
        head += _AUDIENCE_HEAD
    return head + texts[first]


def _confirm(clusters: Sequence[ClusterSettings]) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("--revoke: expected --yes, because standard input is not a terminal")
    names = listed([cluster.name for cluster in clusters])
    click.confirm(f"Revoke gpuid's rights in {names}?", abort=True, err=True)


def _report(work: Work, *, err: bool) -> None:
    """Print what was done in a cluster, or the differences; problems go to stderr."""
    name = one_line(work.finding.name)
    for done in work.done:
        if done.outcome is not Outcome.UNCHANGED:
            why = f": {done.why}" if done.why else ""
            click.echo(f"{name}: {done.outcome.value} {escaped(done.title)}{escaped(why)}", err=err)
    if unchanged := sum(done.outcome is Outcome.UNCHANGED for done in work.done):
        click.echo(f"{name}: unchanged {counted(unchanged, 'object')}", err=err)
    if work.action is Action.REVOKE and work.finding.ok and not work.done:
        click.echo(f"{name}: nothing to revoke", err=err)
    if work.action is Action.CHECK and work.finding.ok:
        click.echo(f"{name}: {counted(len(work.diffs), 'difference') if work.diffs else 'up to date'}", err=err)
    for diff in work.diffs:
        click.echo("\n".join(map(escaped, diff)), err=err)
    if work.context is not None and work.seconds is not None:
        ends = work.context.token.ends
        click.echo(f"{name}: token until {escaped(ends)}{_shortened(ends, work.seconds)}", err=err)
    for problem in work.finding.problems:
        click.echo(f"gpuid: {name}: {problem.text}" + (f" ({problem.hint})" if problem.hint else ""), err=True)


def _shortened(ends: str, seconds: int) -> str:
    try:
        left = datetime.fromisoformat(ends).timestamp() - time.time()
    except (ValueError, OverflowError):
        return ""
    return "" if left >= _FULL_LIFETIME_SHARE * seconds else " (shortened by the server)"


def _hand_out(contexts: Sequence[CollectorContext], failed: Sequence[str], file: Path | None) -> None:
    """Write the contexts to a kubeconfig, or print the Secret that has them."""
    if file is None:
        if failed:  # applying it would remove these clusters' contexts
            raise CommandError(f"--secret: not printed, because {listed(failed)} would be missing from it")
        secret = make_secret(contexts)
        if (size := len(secret["stringData"]["config"].encode())) > _MAX_SECRET_BYTES:
            raise CommandError(
                f"--secret: not printed, because {size:,} bytes exceed the 1 MiB that Kubernetes stores;"
                " name fewer clusters, or use --kubeconfig"
            )
        click.echo(dump([secret]), nl=False)
        click.echo(_IN_TIME, err=True)
    elif contexts:
        write(file, contexts)
        first = f"--kubeconfig {shell_word(str(file))} --context {shell_word(contexts[0].name)}"
        click.echo(f"Wrote {counted(len(contexts), 'context')} to {escaped(str(file))}, named as yours. Try:")
        click.echo(f"  kubectl {first} get nodes")
