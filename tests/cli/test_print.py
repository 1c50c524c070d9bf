"""`gpuid print`: what is shipped for Prometheus and Grafana, with the configured label."""

import contextlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from collector.cli import gpuid
from collector.config.settings import MetricsSettings
from collector.exposition.families import FAMILIES

ROOT = Path(__file__).parents[2]
FILES = {
    "rules alerts": "config/prometheus/rules/alerts.yml",
    "rules recording": "config/prometheus/rules/recording.yml",
    "prometheusrule": "config/kubernetes/collector/prometheusrule.yaml",
    "recipes": "config/prometheus/recipes.md",
    "runbook": "config/prometheus/runbook.md",
    **{f"dashboard {path.stem}": f"grafana/dashboards/{path.name}" for path in (ROOT / "grafana/dashboards").iterdir()},
}
SETTINGS = '[metrics]\ncluster_label = "site"\n[[clusters]]\ncontext = "a"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUID_CONFIG", raising=False)
    return tmp_path


def run(*args: str) -> str:
    result = CliRunner().invoke(gpuid, ["print", *args])
    assert result.exit_code == 0, result.output
    return result.output


def words(value: Any) -> set[str]:
    """Every string in a document, keys included."""
    if isinstance(value, dict):
        return set().union(*(words(one) for pair in value.items() for one in pair))
    if isinstance(value, list):
        return set().union(*map(words, value))
    return {value} if isinstance(value, str) else set()


@pytest.mark.parametrize("command", FILES)
def test_the_default_label_prints_the_file_unchanged(command: str) -> None:
    assert run(*command.split()) == (ROOT / FILES[command]).read_text(encoding="utf-8")


def test_all_rules_are_one_file() -> None:
    both = yaml.safe_load(run("rules"))["groups"]
    assert both == [group for name in ("alerts", "recording") for group in yaml.safe_load(run("rules", name))["groups"]]
    assert run("rules").startswith("# Alerts on gpuid's series.")


@pytest.mark.parametrize("command", FILES)
def test_another_label_comes_from_the_configuration(folder: Path, command: str) -> None:
    (folder / "other.toml").write_text(SETTINGS)
    (folder / "gpuid.toml").write_text(SETTINGS.replace("site", "found"))
    named = run(*command.split(), "-c", "other.toml")
    assert named == run(*command.split(), "--cluster-label", "site")
    assert run(*command.split()) == run(*command.split(), "--cluster-label", "found")
    k8s = run(*command.split(), "-c", "other.toml", "--cluster-label", "k8s")
    assert k8s == run(*command.split(), "--cluster-label", "k8s") != named


def test_a_label_that_no_configuration_may_have_is_refused() -> None:
    for label, why in (
        ("a-b", "expected a Prometheus label name"),
        ("node", "is a label that gpuid sets itself"),
        ("nan", "is a PromQL keyword"),
        ("Inf", "is a PromQL keyword"),
        ("bool", "is a PromQL keyword"),
    ):
        result = CliRunner().invoke(gpuid, ["print", "rules", "--cluster-label", label])
        assert result.exit_code == 2
        assert why in result.output


def labels_of_rules() -> set[str]:
    """The labels that the shipped rules group, join and match by, or set."""
    found: set[str] = set()
    texts = (run("rules", name) for name in ("alerts", "recording"))
    groups = [group for text in texts for group in yaml.safe_load(text)["groups"]]
    for rule in (rule for group in groups for rule in group["rules"]):
        found |= rule.get("labels", {}).keys()
        for names in re.findall(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)", rule["expr"]):
            found |= {name.strip() for name in names.split(",") if name.strip()}
        found |= set(re.findall(r'([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*"', rule["expr"]))
    return found


def test_no_label_of_any_family_or_rule_can_be_the_clusters() -> None:
    own = {label for family in FAMILIES for label in family.labels} | labels_of_rules()
    assert {"field", "sink", "severity"} <= own
    accepted = set()
    for label in own - {"cluster"}:
        with contextlib.suppress(ValueError):
            MetricsSettings(cluster_label=label)
            accepted.add(label)
    assert accepted == set()


class TestAnotherLabel:
    def test_annotations_use_the_label_and_keep_their_text(self) -> None:
        alerts = {
            rule["alert"]: rule
            for group in yaml.safe_load(run("rules", "alerts", "--cluster-label", "k8s"))["groups"]
            for rule in group["rules"]
            if "alert" in rule
        }
        down = alerts["GpuidClusterDown"]
        assert down["annotations"]["summary"] == "gpuid cannot watch cluster {{ $labels.k8s }}."
        assert down["expr"].startswith("max by (k8s) (gpuid_cluster_up) == 0\n")

    def test_comments_are_kept_and_adapted(self) -> None:
        text = run("rules", "recording", "--cluster-label", "k8s")
        assert (
            '# Which serial was on this node at time T: cluster_node_uuid:gpuid_gpu_info:max{k8s="…",node="…"}' in text
        )
        assert "- record: cluster_node_uuid:gpuid_gpu_info:max\n" in text

    def test_the_runbook_uses_the_label(self) -> None:
        text = run("runbook", "--cluster-label", "k8s")
        assert "          k8s: prod-us-east\n" in text
        assert 'max by (k8s, serial) (gpuid_gpu_info{k8s="research",serial!=""} @ 1764000000)' in text
        assert "the labels `k8s` and `serial`" in text
        assert "## GpuidClusterDown" in text

    def test_the_recipes_use_the_label(self) -> None:
        text = run("recipes", "--cluster-label", "k8s")
        assert "have no `k8s` label" in text
        assert "joins on `k8s, node` work across clusters" in text

    @pytest.mark.parametrize("name", ["fleet", "serial", "node", "collector"])
    def test_a_dashboard_keeps_its_variable_and_its_titles(self, name: str) -> None:
        before = json.loads(run("dashboard", name))
        after = json.loads(run("dashboard", name, "--cluster-label", "k8s"))
        (variable,) = [one for one in after["templating"]["list"] if one["name"] == "cluster"]
        assert variable["query"]["query"] == "label_values(gpuid_cluster_up, k8s)"
        titles = [panel["title"] for panel in before["panels"]]
        assert [panel["title"] for panel in after["panels"]] == titles
        said = "\n".join(words(after))
        for left in ("{{cluster}}", "fields.cluster}", "labels.cluster}", "by (cluster", "on (cluster", "{cluster="):
            assert left not in said
        assert "var-cluster=${__" in said
        assert "cluster" not in {one for one in words(after["panels"]) if one == "cluster"}


def test_the_wheel_and_the_image_have_every_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert all(target == f"collector/share/{source}" for source, target in included.items())
    image = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [line.split()[1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    for file in FILES.values():
        for prefixes in (included, image, copied):
            assert any(file == prefix or file.startswith(f"{prefix}/") for prefix in prefixes), file
