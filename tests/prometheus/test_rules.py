"""Alerts and recording rules: Prometheus accepts them, each is tested, has its runbook, and fires on real trouble."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from collector.cli import gpuid
from collector.exposition.families import FAMILIES
from collector.health import Degradation
from collector.model import ClusterState, ReadFailure, Uncovered
from collector.sinks import Reason
from tests.support.prometheus import RULES, printed
from tests.support.troubled import LABEL, Troubled
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
TESTS = sorted((Path(__file__).parent / "rules").glob("*.yml"))
RUNBOOK = (ROOT / "config" / "prometheus" / "runbook.md").read_text(encoding="utf-8")
MANIFEST = ROOT / "config" / "kubernetes" / "collector" / "prometheusrule.yaml"


def groups(path: Path) -> list[dict[str, Any]]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]


@cache
def cases_of(path: Path) -> list[dict[str, Any]]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]


def rules(name: str) -> Iterator[dict[str, Any]]:
    for group in groups(RULES / name):
        yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml") if "alert" in rule}
RECORDS = {rule["record"]: rule for name in ("alerts.yml", "recording.yml") for rule in rules(name) if "record" in rule}
EXPECTED = "cluster_serial:gpuid_gpu_expected:info"  # the user's own

ON_TIME_SECONDS = 5.0  # to the next evaluation, of which there is one a second

each_alert = pytest.mark.parametrize("alert", ALERTS)


def test_promtool_accepts_the_rules(promtool: str) -> None:
    checked = subprocess.run([promtool, "check", "rules", *sorted(RULES.glob("*.yml"))], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("document", "kinds"),
    [
        ("docs/prometheus.md", ["scrape_configs", "remote_write"]),
        ("config/prometheus/runbook.md", ["groups"]),
    ],
)
def test_promtool_accepts_the_documented_examples(
    promtool: str, document: str, kinds: list[str], tmp_path: Path
) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / document).read_text(), re.MULTILINE | re.DOTALL)
    shown = [block for block in blocks if block.startswith(("groups:", "remote_write:", "scrape_configs:"))]
    assert [block.partition(":")[0] for block in shown] == kinds
    for block in shown:
        (tmp_path / "shown.yml").write_text(block)
        kind = "rules" if block.startswith("groups:") else "config"
        checked = subprocess.run([promtool, "check", kind, tmp_path / "shown.yml"], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_their_tests_say(promtool: str, file: Path, tmp_path: Path) -> None:
    """With the rules that the tests ask for: promtool evaluates all that it is given at each of thousands of steps."""
    text = file.read_text(encoding="utf-8")
    asked = asked_for(cases_of(file))
    for name in ("alerts.yml", "recording.yml"):
        kept = [
            {**group, "rules": [rule for rule in group["rules"] if rule.get("alert", rule.get("record")) in asked]}
            for group in groups(RULES / name)
        ]
        (tmp_path / name).write_text(yaml.safe_dump({"groups": kept}))
    run_tests(promtool, tmp_path, re.sub(r"^  - \.\./.*/(.*\.yml)$", r"  - \1", text, flags=re.MULTILINE))


def run_tests(promtool: str, folder: Path, tests: str) -> None:
    """Run promtool's tests of the rules in a folder; AssertionError with its output if they fail."""
    (folder / "tests.yml").write_text(tests)
    run = subprocess.run([promtool, "test", "rules", folder / "tests.yml"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def asked_for(tests: list[dict[str, Any]]) -> set[str]:
    """Return the names of the alerts that tests ask for, and of the series that they or those rules read."""
    found = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ())}
    expressions = [case["expr"] for test in tests for case in test.get("promql_expr_test", ())]
    while True:
        read = str([*expressions, *((ALERTS | RECORDS)[name] for name in found)])
        more = {record for record in RECORDS if record in read} - found
        if not more:
            return found
        found |= more


# With all rules: none of them fails on the series that are there for others.
@pytest.mark.parametrize("name", ["clusters", "gpus", "health", "recording"])
def test_they_behave_the_same_with_another_label(promtool: str, tmp_path: Path, name: str) -> None:
    text = next(file for file in TESTS if file.stem == name).read_text(encoding="utf-8")
    text = re.sub(r'\bcluster(?==")|\bcluster(?=: (?!\d))|\bcluster(?=[,)])', LABEL, text)
    text = re.sub(r"^  - \.\./.*\.yml$", "  - rules.yml", text, flags=re.MULTILINE)
    (tmp_path / "rules.yml").write_text(printed("rules", LABEL))
    run_tests(promtool, tmp_path, text)


@each_alert
def test_an_alert_is_tested_firing_and_not_firing(alert: str) -> None:
    cases = [
        case["exp_alerts"]
        for file in TESTS
        for test in cases_of(file)
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert
    ]
    assert [] in cases
    assert any(cases)


@pytest.mark.parametrize("record", RECORDS)
def test_a_recording_rule_is_tested(record: str) -> None:
    tested = {
        sample["labels"].partition("{")[0]
        for file in TESTS
        for test in cases_of(file)
        for case in test.get("promql_expr_test", ())
        for sample in case["exp_samples"]
    }
    assert record in tested


@each_alert
def test_every_alert_has_a_severity_a_summary_and_a_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"] == f"https://gpuid.example.com/runbook.md#{alert.lower()}"
    assert f"\n## {alert}\n\n" in RUNBOOK


def test_the_runbook_has_only_alerts_and_valid_links() -> None:
    assert re.findall(r"^## (.+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)
    for target in re.findall(r"\]\(([^)]+)\)", RUNBOOK):
        path, _, anchor = target.partition("#")
        document = (ROOT / "config" / "prometheus" / path).resolve() if path else ROOT / "config/prometheus/runbook.md"
        assert document.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("rule", [*ALERTS.values(), *RECORDS.values()], ids=[*ALERTS, *RECORDS])
def test_a_rule_names_only_metrics_that_exist(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"[a-z_]*:?\bgpuid_\w+[\w:]*|\bup\b", rule["expr"]))
    assert named
    assert named <= {family.name for family in FAMILIES} | {"up", EXPECTED, *RECORDS}


def test_the_runbook_has_every_reason_and_state() -> None:
    def rows(alert: str) -> str:
        return RUNBOOK.partition(f"\n## {alert}\n")[2].partition("\n## ")[0]

    for failure in ReadFailure:
        assert f"`{failure}`" in rows("GpuidReadsFailing")
    for uncovered in (*Uncovered, ReadFailure.NO_CONTAINER):
        assert f"`{uncovered}`" in rows("GpuidNodesUnread")
        assert uncovered in ALERTS["GpuidNodesUnread"]["expr"]
    worn = rows("GpuidGpuNeedsReplacement") + rows("GpuidGpuNeedsReset")
    for degradation in Degradation:
        assert f"`{degradation}`" in worn
    for reason in set(Reason) - {Reason.REJECTED}:  # which is GpuidDeadLetters
        assert f"`{reason}`" in rows("GpuidExportsFailing")
    whole = ("GpuidClusterDown", "GpuidCredentialFailing", "GpuidClusterDuplicate", "GpuidClusterUnowned")
    down = "".join(map(rows, whole))
    for state in set(ClusterState) - {ClusterState.UP, ClusterState.STARTING}:
        assert f"`{state}`" in down


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`gpuid ([^`]+)`", RUNBOOK))))
def test_commands_in_the_runbook_have_their_arguments(line: str) -> None:
    command: click.Command | None = gpuid
    context = click.Context(gpuid)
    words = line.split()
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
    assert command is not None
    command.make_parser(context).parse_args(list(words))
    (takes,) = [one.make_metavar(context) for one in command.params if isinstance(one, click.Argument)] or [""]
    named = [word for word, before in zip(words, ["", *words], strict=False) if word.isupper() and before[:2] != "--"]
    assert all(
        word in re.split(r"\W+", takes.replace("TERM", "SERIAL NODE").replace("ID", "ID SERIAL NODE")) for word in named
    )


def test_a_cluster_that_is_down_raises_one_alert() -> None:
    credential = "bad_context|credential_plugin_missing|credential_plugin_failed|unauthorized|forbidden"
    states = {alert: re.findall(r'state=~?"([^"]+)"', rule["expr"]) for alert, rule in ALERTS.items()}
    assert states["GpuidClusterDown"] == [f"{credential}|duplicate"]
    assert (states["GpuidCredentialFailing"], states["GpuidClusterDuplicate"]) == ([credential], ["duplicate"])
    assert set(credential.split("|")) < set(ClusterState)


def test_an_intermittent_condition_keeps_firing() -> None:
    calm = {name for name, rule in ALERTS.items() if "keep_firing_for" in rule}
    assert calm == {
        "GpuidScrapeFailing",
        "GpuidClusterDown",
        "GpuidManyClustersDown",
        "GpuidReadsFailing",
        "GpuidNodesUnread",
        "GpuidExportBacklogGrowing",
        "GpuidExportsFailing",
        "GpuidStoreDown",
    }


@pytest.mark.parametrize(
    ("name", "series", "interval"),
    [("health", "gpuid_gpu_degraded", "10s"), ("marks", "gpuid_gpu_mark_info", "30s")],
)
def test_places_are_recorded_before_the_alert_that_uses_them(name: str, series: str, interval: str) -> None:
    (group,) = [group for group in groups(RULES / "alerts.yml") if group["name"] == f"gpuid.{name}"]
    assert group["interval"] == interval
    assert group["rules"][0]["record"] == f"cluster_node_uuid:{series}:max"


def test_the_manifest_for_the_operator_has_the_same_rules() -> None:
    head, _, _ = MANIFEST.read_text(encoding="utf-8").partition("\n  groups:\n")
    bodies = [
        (RULES / name).read_text(encoding="utf-8").partition("\ngroups:\n")[2]
        for name in ("alerts.yml", "recording.yml")
    ]
    lines = "\n".join(bodies).splitlines()
    expected = f"{head}\n  groups:\n" + "".join(f"  {line}\n" if line else "\n" for line in lines)
    assert MANIFEST.read_text(encoding="utf-8") == expected, f"{MANIFEST.name} should be:\n{expected}"


def test_the_manifest_has_the_labels_the_operator_selects() -> None:
    manifest = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert manifest["spec"] == {"groups": groups(RULES / "alerts.yml") + groups(RULES / "recording.yml")}
    monitor = yaml.safe_load((MANIFEST.parent / "servicemonitor.yaml").read_text())
    assert manifest["metadata"] == monitor["metadata"]
    assert manifest["metadata"]["labels"]["release"] == "kube-prometheus-stack"


class TestInTrouble:
    """Against a real Prometheus that evaluates the rules on what two real collectors publish."""

    def test_the_expected_alerts_are_pending_or_firing(self, troubled: Troubled) -> None:
        happened = {
            "GpuidClusterDown",
            "GpuidCredentialFailing",
            "GpuidClusterDuplicate",
            "GpuidReadsFailing",
            "GpuidNodesUnread",
            "GpuidGpuMissing",
            "GpuidGpuConflict",
            "GpuidDegradedGpuMoved",
            "GpuidGpuNeedsReplacement",
            "GpuidGpuNeedsReset",
            "GpuidGpuEccErrorsGrowing",
            "GpuidMarkedGpuMoved",
            "GpuidRmaGpuInService",
            "GpuidExportsFailing",
            "GpuidDeadLetters",
        }
        until(lambda: happened - troubled.prometheus.alerts(), set())

    def test_a_moved_degraded_gpu_alerts_with_its_first_scrape(self, troubled: Troubled) -> None:
        def first(series: str) -> float:
            """When the series was first there, in the new place; it is nowhere else."""
            found = troubled.prometheus.range(f"max by (cluster, node) ({series})", troubled.start, troubled.now, 1)
            assert [one["metric"] for one in found] == [{"cluster": troubled.cluster, "node": troubled.node}]
            return float(found[0]["values"][0][0])

        there = f'uuid="{troubled.uuid}",cluster="{troubled.cluster}"'
        alert = first(f'ALERTS{{alertname="GpuidDegradedGpuMoved",alertstate="firing",uuid="{troubled.uuid}"}}')
        assert alert - first(f"gpuid_gpu_degraded{{{there}}}") <= ON_TIME_SECONDS

    def test_with_another_label_a_cluster_down_raises_its_alert(self, troubled: Troubled) -> None:
        down = {"alertname": "GpuidClusterDown", "severity": "warning", LABEL: "sim-3"}
        server = troubled.labelled
        until(lambda: [one for one in server.alert_labels() if one["alertname"] == down["alertname"]], [down])
        assert len(server.query("gpuid_cluster_up == 1")) > 1
        assert {one["metric"][LABEL] for one in server.query("cluster_model:gpuid_gpu_info:count")} >= {
            "sim-0",
            "sim-1",
        }

    def test_the_recording_rules_give_placements(self, troubled: Troubled) -> None:
        query = f'cluster_node_uuid:gpuid_gpu_info:max{{uuid="{troubled.uuid}"}}'
        until(
            lambda: [
                (one["metric"]["cluster"], one["metric"]["node"], one["metric"]["serial"])
                for one in troubled.prometheus.query(query)
                if one["metric"]["cluster"] != "sim-1"  # before the move
            ],
            [(troubled.cluster, troubled.node, troubled.serial)],
        )
