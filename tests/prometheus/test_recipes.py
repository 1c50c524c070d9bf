"""Every PromQL recipe that the documentation shows is run word for word, but for the example's GPU, node and time."""

import re
import time
from pathlib import Path

import pytest

from tests.support.prometheus import Prometheus
from tests.support.troubled import Troubled
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
DOCUMENTS = (ROOT / "config" / "prometheus" / "recipes.md", ROOT / "docs" / "metrics.md")
BLOCK = re.compile(r"^```promql([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXAMPLES = {"serial": "1652923034567", "cluster": "prod-us-east", "node": "ip-10-0-3-7"}
EXAMPLE_TIME = "1764000000"


def recipes(*, worn: bool) -> list[object]:
    """The recipes of the documents, with whether each is quiet; those that need worn cards, or those that do not."""
    found = [
        (document.name, index, info.split(), query.strip())
        for document in DOCUMENTS
        for index, (info, query) in enumerate(BLOCK.findall(document.read_text()))
    ]
    return [
        pytest.param(query, "quiet" in info, id=f"{name}-{index}-{'-'.join(re.findall('[a-zA-Z]+', query)[:6])}")
        for name, index, info, query in found
        if ("worn" in info) is worn
    ]


@pytest.mark.parametrize(("query", "quiet"), recipes(worn=False))
def test_every_recipe_returns_data(prometheus: Prometheus, query: str, quiet: bool) -> None:
    until(lambda: len(prometheus.query('gpuid_gpu_info{serial!=""}')) > 0)  # also after a scrape that failed
    gpu = prometheus.query('gpuid_gpu_info{serial!=""}')[0]["metric"]
    for label, example in EXAMPLES.items():
        query = query.replace(f'{label}="{example}"', f'{label}="{gpu[label]}"')
    query = query.replace(f"@ {EXAMPLE_TIME}", f"@ {time.time():.3f}")
    if quiet:
        prometheus.query(query)
    else:
        until(lambda: len(prometheus.query(query)) > 0)


@pytest.mark.parametrize(("query", "quiet"), recipes(worn=True))
def test_every_recipe_for_worn_cards_returns_data(troubled: Troubled, query: str, quiet: bool) -> None:
    assert not quiet
    assert troubled.prometheus.query(query, troubled.now)


def test_the_join_on_the_node_gives_every_gpu_its_zone(prometheus: Prometheus) -> None:
    (query,) = [one for one in _queries() if one.startswith("count by (cluster, label_topology")]
    until(lambda: len(prometheus.query(query)) > 1)  # both sides have been scraped
    counts = [float(one["value"][1]) for one in prometheus.query(query)]
    zones = {one["metric"]["label_topology_kubernetes_io_zone"] for one in prometheus.query(query)}
    assert zones == {"zone-0", "zone-1"}
    assert sum(counts) >= float(prometheus.query("count(gpuid_gpu_info)")[0]["value"][1]) - 32


def test_the_join_on_the_uuid_gives_every_temperature_its_serial(prometheus: Prometheus) -> None:
    (query,) = [
        one for one in _queries() if "DCGM_FI_DEV_GPU_TEMP" in one and "group_left (cluster, node, serial)" in one
    ]
    until(lambda: len(prometheus.query(query)) > 0)  # both sides have been scraped
    joined = prometheus.query(query)
    assert {float(one["value"][1]) for one in joined} == {41.0}
    assert all(one["metric"].keys() == {"uuid", "cluster", "node", "serial"} for one in joined)


def _queries() -> list[str]:
    return [query.strip() for _, query in BLOCK.findall(DOCUMENTS[0].read_text())]
