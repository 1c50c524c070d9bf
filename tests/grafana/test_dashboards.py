"""Every dashboard loads, names only metrics that exist, and gets data from a real Prometheus."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.exposition.families import FAMILIES
from tests.plugins.processes import until
from tests.plugins.prometheus import Prometheus

GRAFANA = Path(__file__).parents[2] / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))

# What is empty while all is well.
QUIET = {"Nodes with missing GPUs", "Readings that fail"}


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def variables(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def series_names() -> set[str]:
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    return {family.name + suffix for family in FAMILIES for suffix in suffixes[family.kind]}


each_dashboard = pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
each_query = pytest.mark.parametrize(
    ("title", "query"),
    [
        pytest.param(title, query, id=f"{path.stem}-{title}-{index}")
        for path in DASHBOARDS
        for index, (title, query) in enumerate(queries(load(path)))
    ],
)


@each_dashboard
def test_it_is_of_a_schema_that_grafana_11_reads(path: Path) -> None:
    dashboard = load(path)
    assert dashboard["schemaVersion"] >= 39
    assert re.fullmatch(r"gpuid-[a-z-]{1,34}", dashboard["uid"])
    assert "id" not in dashboard


@each_dashboard
def test_every_panel_says_what_it_shows_and_asks_the_chosen_data_source(path: Path) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in load(path)["panels"]:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]
            assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [chosen] * (
                1 + len(panel["targets"])
            )


@each_dashboard
def test_panels_have_their_own_ids_and_places(path: Path) -> None:
    panels = load(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


@each_dashboard
def test_it_uses_each_of_its_variables_and_no_others(path: Path) -> None:
    text = json.dumps([load(path)["panels"], load(path)["templating"]])
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == set(variables(load(path)))


@each_query
def test_a_query_names_only_metrics_that_exist(title: str, query: str) -> None:
    named = set(re.findall(r"\bgpuid_\w+", query))
    assert named
    assert named <= series_names()


@each_query
def test_a_query_gets_data(prometheus: Prometheus, title: str, query: str) -> None:
    serial = prometheus.query('gpuid_gpu_info{serial!=""}')[0]["metric"]["serial"]
    values = {"$__range": "5m", "$__rate_interval": "30s", "$cluster": ".*", "$search": serial}
    for name, value in values.items():
        query = query.replace(name, value)
    assert "$" not in query
    if title in QUIET:
        prometheus.query(query)
    else:
        until(lambda: len(prometheus.query(query)) > 0, True)


@each_dashboard
def test_the_cluster_variable_lists_the_clusters(path: Path) -> None:
    variable = variables(load(path))["cluster"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
    assert variable["query"]["query"] == variable["definition"]
    assert (metric in series_names(), label) == (True, "cluster")


def test_the_provisioning_finds_data_source_and_dashboards() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/gpuid.yaml").read_text())["providers"]
    assert source["type"] == "prometheus"
    readme = (GRAFANA / "README.md").read_text()
    assert f"grafana/dashboards:{provider['options']['path']}:ro" in readme
    assert f"--env {source['url'].removeprefix('$')}=" in readme
