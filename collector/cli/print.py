"""`gpuid print`: prints the files for Prometheus and Grafana, with the configured cluster label."""

import importlib.resources
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from collector.cli import relabel
from collector.cli.options import found_config, optional_config_option
from collector.config import MetricsSettings, load

__all__ = ["print_"]

F = TypeVar("F", bound=Callable[..., Any])

_RULES = {name: f"config/prometheus/rules/{name}.yml" for name in ("alerts", "recording")}
_DASHBOARDS = {name: f"grafana/dashboards/{name}.json" for name in ("fleet", "serial", "node", "health", "collector")}
_OPERATOR = "config/kubernetes/collector/prometheusrule.yaml"
_RECIPES = "config/prometheus/recipes.md"
_RUNBOOK = "config/prometheus/runbook.md"


def _label(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            MetricsSettings(cluster_label=value)
        except ValueError as error:
            raise click.BadParameter(str(error).partition(": ")[2]) from error
    return value


def _label_options(function: F) -> F:
    """Add `--cluster-label` and `--config`; the command gets `cluster_label` and `config`."""
    function = optional_config_option(function)
    return click.option(
        "--cluster-label",
        metavar="NAME",
        callback=_label,
        help="Name of the label. Default: metrics.cluster_label of the configuration, else cluster.",
    )(function)


@click.group("print")
def print_() -> None:
    r"""Print the alerts, recording rules, PromQL recipes, runbook and Grafana dashboards.

    All of them use the configured cluster label (metrics.cluster_label).

    \b
    Examples:
      gpuid print rules -c gpuid.toml > /etc/prometheus/rules/gpuid.yml
      gpuid print dashboard fleet --cluster-label k8s > fleet.json
    """


@print_.command()
@click.argument("name", type=click.Choice(tuple(_RULES)), required=False)
@_label_options
def rules(name: str | None, cluster_label: str | None, config: Path | None) -> None:
    r"""Print the rules for Prometheus' rule_files: the alerts, the recording rules, or both.

    \b
    Example:
      gpuid print rules > rules/gpuid.yml
    """
    first, *others = [_shipped(_RULES[one]) for one in ([name] if name else _RULES)]
    text = first + "".join("\n" + other.partition("\ngroups:\n")[2] for other in others)
    _print(relabel.rules, text, cluster_label, config)


@print_.command()
@_label_options
def prometheusrule(cluster_label: str | None, config: Path | None) -> None:
    r"""Print all rules as a PrometheusRule for the Prometheus operator.

    \b
    Example:
      gpuid print prometheusrule | kubectl apply -f -
    """
    _print(relabel.rules, _shipped(_OPERATOR), cluster_label, config)


@print_.command()
@_label_options
def recipes(cluster_label: str | None, config: Path | None) -> None:
    r"""Print the PromQL recipes, as Markdown.

    \b
    Example:
      gpuid print recipes --cluster-label k8s
    """
    _print(relabel.document, _shipped(_RECIPES), cluster_label, config)


@print_.command()
@_label_options
def runbook(cluster_label: str | None, config: Path | None) -> None:
    r"""Print the runbook of the alerts, as Markdown.

    \b
    Example:
      gpuid print runbook > runbook.md
    """
    _print(relabel.document, _shipped(_RUNBOOK), cluster_label, config)


@print_.command()
@click.argument("name", type=click.Choice(tuple(_DASHBOARDS)))
@_label_options
def dashboard(name: str, cluster_label: str | None, config: Path | None) -> None:
    r"""Print one of the Grafana dashboards, as JSON.

    \b
    Example:
      gpuid print dashboard fleet > fleet.json
    """
    _print(relabel.dashboard, _shipped(_DASHBOARDS[name]), cluster_label, config)


def _print(relabelled: Callable[[str, str], str], text: str, label: str | None, config: Path | None) -> None:
    if label is None:
        found = config or found_config()
        label = MetricsSettings().cluster_label if found is None else load(found).metrics.cluster_label
    click.echo(relabelled(text, label), nl=False)


def _shipped(path: str) -> str:
    """Return a shipped file, from the wheel or from the repository that this runs in."""
    package = importlib.resources.files("collector")
    shipped = package / "share" / path
    if not shipped.is_file():
        shipped = Path(str(package)).parent / path
    return shipped.read_text(encoding="utf-8")
