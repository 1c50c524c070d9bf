"""A real Prometheus discovers the collector's shares, and its series match the collector's."""

import subprocess
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.support.prometheus import CLUSTERS, Prometheus
from tests.support.waiting import until

EXAMPLES = Path(__file__).parents[2] / "config" / "prometheus"


def gpus_of(demo: str) -> Counter[str]:
    gpus = httpx.get(f"{demo}/api/v1/gpus", params={"limit": "1000"}, timeout=30).raise_for_status().json()
    return Counter(gpu["cluster"] for gpu in gpus["gpus"])


def test_every_share_and_the_collector_itself_are_scraped(prometheus: Prometheus) -> None:
    targets = [target for target in prometheus.targets() if target["scrapePool"] == "gpuid"]
    assert len(targets) == CLUSTERS + 1
    until(lambda: [target["lastError"] for target in prometheus.targets() if target["health"] != "up"], [])


def test_gpus_are_counted_by_cluster(prometheus: Prometheus, demo: str) -> None:
    def counted() -> dict[str, int]:
        result = prometheus.query("count by (cluster) (gpuid_gpu_info)")
        return {one["metric"]["cluster"]: int(one["value"][1]) for one in result}

    until(lambda: counted() == gpus_of(demo) and len(counted()), CLUSTERS)


def test_the_collectors_labels_are_kept(prometheus: Prometheus) -> None:
    assert prometheus.query('{__name__=~"gpuid_.+",exported_cluster!=""}') == []
    assert prometheus.query('{__name__=~"gpuid_.+",exported_node!=""}') == []


@pytest.mark.parametrize("path", ["/metrics", "/metrics?cluster={}", "/metrics/collector"])
def test_promtool_finds_nothing_wrong_with_an_answer(promtool: str, demo: str, path: str) -> None:
    cluster = httpx.get(f"{demo}/sd").json()[0]["labels"]["cluster"]
    body = httpx.get(f"{demo}{path.format(cluster)}", headers={"Accept": "text/plain"}).raise_for_status().content
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True)
    assert (checked.returncode, checked.stderr.decode()) == (0, "")


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.yml")), ids=lambda path: path.name)
def test_promtool_accepts_the_scrape_examples(promtool: str, file: Path) -> None:
    checked = subprocess.run([promtool, "check", "config", file], capture_output=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "honor_labels: true" in file.read_text()
