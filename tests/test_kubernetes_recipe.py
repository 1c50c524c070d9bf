"""What docs/prometheus.md says of kube-prometheus-stack works as written, up to where a cluster would be needed."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "prometheus.md").read_text(encoding="utf-8")
# What kubectl may note on an object of what it applied.
LARGEST_NOTE = 256 * 1024

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")


def commands(section: str) -> list[str]:
    """The shell blocks of a section, where kubectl only prints what it would apply."""
    text = DOCUMENT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks
    offline = [
        re.sub(r"^kubectl apply -k (\S+)$", r"echo --- && kubectl kustomize \1", block, flags=re.MULTILINE)
        for block in blocks
    ]
    return [re.sub(r"^kubectl --namespace gpuid delete .*$", "", block, flags=re.MULTILINE) for block in offline]


def run(block: str, folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for folder in ("config", "grafana"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def test_links_to_the_runbook_point_to_its_location(repository: Path) -> None:
    (block,) = commands("Alerts and recording rules")
    run(block, repository)
    for path in ("config/prometheus/rules/alerts.yml", "config/kubernetes/collector/prometheusrule.yaml"):
        urls = re.findall(r"runbook_url: (\S+)#", (repository / path).read_text())
        assert set(urls) == {"https://wiki.example.org/gpuid/runbook.md"}


def test_the_applied_resources_have_the_stack_s_labels(repository: Path) -> None:
    rename, apply, shares = commands("Add it to your kube-prometheus-stack")
    run(rename, repository)
    objects = run(apply, repository)
    assert Counter(one["kind"] for one in objects) == {
        "Namespace": 1,
        "ConfigMap": 1 + 5,
        "Deployment": 1,
        "Service": 1,
        "PersistentVolumeClaim": 1,
        "ServiceMonitor": 1,
        "PrometheusRule": 1,
    }
    assert {one["metadata"].get("namespace", "gpuid") for one in objects} == {"gpuid"}
    for one in objects:
        labels = one["metadata"].get("labels", {})
        if one["apiVersion"].startswith("monitoring.coreos.com/"):
            assert labels["release"] == "RELEASE"
        if "dashboard" in one["metadata"]["name"]:
            assert labels["grafana_dashboard"] == "1"
            ((name, text),) = one["data"].items()
            assert text == (ROOT / "grafana" / "dashboards" / name).read_text(encoding="utf-8")
            assert len(yaml.safe_dump(one).encode()) * 2 < LARGEST_NOTE  # quoted, that is at most twice as long

    kinds = Counter(one["kind"] for one in run(shares, repository))
    assert (kinds["ServiceMonitor"], kinds["ScrapeConfig"], kinds["PrometheusRule"]) == (0, 1, 1)


def test_old_and_new_kube_state_metrics_charts_get_the_cluster() -> None:
    (block,) = [
        one for one in re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL) if "kube-state" in one
    ]
    monitor = yaml.safe_load(block)["kube-state-metrics"]["prometheus"]["monitor"]
    named = [{"targetLabel": "cluster", "replacement": "prod-us-east"}]
    assert (monitor["http"]["relabelings"], monitor["relabelings"]) == (named, named)


def test_both_ways_to_scrape_keep_labels_and_set_the_job() -> None:
    folder = ROOT / "config" / "kubernetes" / "collector"
    monitor = yaml.safe_load((folder / "servicemonitor.yaml").read_text())["spec"]
    (endpoint,) = monitor["endpoints"]
    service = yaml.safe_load((folder / "service.yaml").read_text())["metadata"]
    assert monitor["selector"]["matchLabels"].items() <= service["labels"].items()
    assert (service["name"], endpoint["honorLabels"]) == ("gpuid", True)
    scrape = yaml.safe_load((folder / "scrapeconfig.yaml").read_text())["spec"]
    assert (scrape["jobName"], scrape["honorLabels"]) == ("gpuid", True)
    assert 'up{job="gpuid"}' in (ROOT / "config" / "prometheus" / "rules" / "alerts.yml").read_text()
