"""The dashboards are what their sources say, Grafana 11 can read them, and a real Prometheus answers every query."""

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from collector.exposition.families import FAMILIES
from collector.model import ClusterState
from grafana.generate import DASHBOARDS, FOLDER, text
from tests.support.prometheus import printed
from tests.support.troubled import LABEL, Troubled

GRAFANA = FOLDER.parent
PATHS = sorted(FOLDER.glob("*.json"))
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
KINDS = {"bargauge", "row", "stat", "state-timeline", "table", "timeseries"}

# What other exporters publish under these names.
OTHERS = {
    *("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_GPU_UTIL"),
    *("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"),
    *("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS"),
    *("kube_node_info", "kube_node_spec_unschedulable", "kube_node_status_condition"),
    *("process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"),
}


class Asked(NamedTuple):
    """One query of a panel."""

    panel: dict[str, Any]
    target: dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def queries(dashboard: dict[str, Any]) -> Iterator[Asked]:
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            yield Asked(panel, target)


def variables(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def links(value: Any) -> Iterator[str]:
    """Every URL anywhere in a dashboard."""
    if isinstance(value, dict):
        if "url" in value:
            yield value["url"]
        for one in value.values():
            yield from links(one)
    elif isinstance(value, list):
        for one in value:
            yield from links(one)


def series_names() -> set[str]:
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
    return {family.name + suffix for family in FAMILIES for suffix in suffixes[family.kind]}


each_dashboard = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
each_query = pytest.mark.parametrize(
    ("path", "asked"),
    [
        pytest.param(path, asked, id=f"{path.stem}-{asked.panel['title']}-{asked.target['refId']}")
        for path in PATHS
        for asked in queries(load(path))
    ],
)


class TestTheFiles:
    @pytest.mark.parametrize("name", DASHBOARDS)
    def test_a_dashboard_matches_its_source(self, name: str) -> None:
        written = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
        assert written == text(DASHBOARDS[name]()), "run: python -m grafana.generate"

    def test_there_is_no_dashboard_without_a_source(self) -> None:
        assert {path.stem for path in PATHS} == set(DASHBOARDS)

    def test_the_provisioning_finds_data_source_and_dashboards(self) -> None:
        (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
        (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/gpuid.yaml").read_text())["providers"]
        assert source["type"] == "prometheus"
        readme = (GRAFANA / "README.md").read_text()
        assert f"grafana/dashboards:{provider['options']['path']}:ro" in readme
        assert f"--env {source['url'].removeprefix('$')}=" in readme


@each_dashboard
class TestForGrafana11:
    def test_its_schema_is_that_of_grafana_11(self, path: Path) -> None:
        dashboard = load(path)
        assert dashboard["schemaVersion"] == 39
        assert dashboard["uid"] == f"gpuid-{path.stem}"
        assert "id" not in dashboard
        assert "gpuid" in dashboard["tags"]

    def test_every_panel_has_texts_a_unit_and_the_chosen_source(self, path: Path) -> None:
        for panel in panels(load(path)):
            assert panel["type"] in KINDS
            assert panel["title"]
            if panel["type"] != "row":
                assert panel["description"]
                assert panel["fieldConfig"]["defaults"]["unit"] not in {"", "short"}  # which hides one of 80,000
                sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
                assert sources == [DATASOURCE] * (1 + len(panel["targets"]))

    def test_panels_and_queries_have_unique_names(self, path: Path) -> None:
        found = list(panels(load(path)))
        assert len({panel["id"] for panel in found}) == len(found)
        titles = [panel["title"] for panel in found if panel["type"] != "row"]
        assert len(set(titles)) == len(titles)
        for panel in found:
            refs = [target["refId"] for target in panel.get("targets", ())]
            assert len(set(refs)) == len(refs)

    def test_panels_neither_overlap_nor_leave_the_grid(self, path: Path) -> None:
        places = [panel["gridPos"] for panel in panels(load(path))]
        for one, other in combinations(places, 2):
            side_by_side = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert side_by_side or below, (one, other)
        assert all(place["x"] + place["w"] <= 24 for place in places)

    def test_rows_of_panels_have_no_gaps(self, path: Path) -> None:
        places = [panel["gridPos"] for panel in panels(load(path))]
        height = max(place["y"] + place["h"] for place in places)
        assert sum(place["w"] * place["h"] for place in places) == 24 * height

    def test_it_uses_each_of_its_variables_and_no_others(self, path: Path) -> None:
        dashboard = load(path)
        text = json.dumps([dashboard["panels"], dashboard["templating"]])
        used = set(re.findall(r"\$\{?([a-z]\w*)", text))
        assert used == set(variables(dashboard))

    def test_data_source_and_clusters_are_variables(self, path: Path) -> None:
        found = variables(load(path))
        assert (found["datasource"]["type"], found["datasource"]["query"]) == ("datasource", "prometheus")
        assert found["cluster"]["query"]["query"] == "label_values(gpuid_cluster_up, cluster)"

    def test_every_link_matches_the_dashboard_it_opens(self, path: Path) -> None:
        known = {load(each)["uid"]: variables(load(each)) for each in PATHS}
        for url in set(links(load(path)["panels"])):
            target = urlsplit(
                url.replace("${datasource:queryparam}", "var-datasource=x").replace(
                    "${__url_time_range}", "from=a&to=b"
                )
            )
            variables_of_target = known[target.path.removeprefix("/d/")]
            for name, (value,) in parse_qs(target.query).items():
                assert name in {"from", "to"} or name.removeprefix("var-") in variables_of_target
                assert re.fullmatch(r"x|a|b|\$\{__(data\.fields|field\.labels)\.(serial|uuid|cluster|node)\}", value)


def test_the_links_lead_from_each_dashboard_to_the_next() -> None:
    leads = {
        path.stem: {urlsplit(url).path.removeprefix("/d/gpuid-") for url in links(load(path)["panels"])}
        for path in PATHS
    }
    assert leads == {
        "fleet": {"fleet", "health", "node", "serial"},
        "serial": {"fleet", "node", "serial"},
        "node": {"fleet", "serial"},
        "health": {"fleet", "node", "serial"},
        "collector": {"fleet", "node"},
    }


def test_every_cluster_state_has_a_description() -> None:
    (table,) = [
        one for one in panels(load(FOLDER / "fleet.json")) if (one["title"], one["type"]) == ("Clusters", "table")
    ]
    (state,) = [one for one in table["fieldConfig"]["overrides"] if one["matcher"]["options"] == "state"]
    (mappings,) = [one["value"] for one in state["properties"] if one["id"] == "mappings"]
    assert set(mappings[0]["options"]) == {state.value for state in ClusterState}


@each_query
def test_a_query_names_only_metrics_that_exist(path: Path, asked: Asked) -> None:
    named = set(re.findall(r"\b(?:gpuid|kube|process|DCGM)_\w+", asked.target["expr"]))
    assert named
    assert named <= series_names() | OTHERS


def test_no_query_on_health_reads_the_past_of_the_whole_fleet() -> None:
    for asked in queries(load(FOLDER / "health.json")):
        assert not re.search(r"gpuid_gpu_info(\{[^}]*\})?\[", asked.target["expr"]), asked.panel["title"]


@each_query
def test_every_query_returns_data(troubled: Troubled, path: Path, asked: Asked) -> None:
    expr = filled(asked.target["expr"], troubled, chosen(load(path), troubled))
    answer = ask(troubled, asked.target, expr)
    assert answer, expr
    if asked.panel["type"] == "stat":
        assert len(answer) == 1


@each_dashboard
def test_with_another_label_every_query_returns_data_and_columns(troubled: Troubled, path: Path) -> None:
    other = troubled._replace(prometheus=troubled.labelled)
    dashboard = json.loads(printed(f"dashboard {path.stem}", LABEL))
    values = chosen(dashboard, other)
    for panel in panels(dashboard):
        answered = set()
        for target in panel.get("targets", ()):
            expr = filled(target["expr"], other, values)
            answer = ask(other, target, expr)
            assert answer, expr
            answered |= set().union(*(series["metric"] for series in answer))
        if panel["type"] == "table":
            assert {column for column in columns(panel) if not column.startswith("Value")} <= answered
        assert "cluster" not in answered


def columns(panel: dict[str, Any]) -> set[str]:
    return {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}


@pytest.mark.parametrize(
    ("path", "panel"),
    [
        pytest.param(path, panel, id=f"{path.stem}-{panel['title']}")
        for path in PATHS
        for panel in panels(load(path))
        if panel["type"] == "table"
    ],
)
def test_a_table_has_a_column_for_every_queried_label(troubled: Troubled, path: Path, panel: dict[str, Any]) -> None:
    values = chosen(load(path), troubled)
    answered = set()
    for target in panel["targets"]:
        for series in ask(troubled, target, filled(target["expr"], troubled, values)):
            answered |= series["metric"].keys()
        answered.add("Value" if len(panel["targets"]) == 1 else f"Value #{target['refId']}")
    named = columns(panel)
    (organize,) = [one["options"] for one in panel["transformations"] if one["id"] == "organize"]
    assert named | set(organize["excludeByName"]) - {"Time"} == answered
    assert list(organize["indexByName"]) == sorted(named)


def test_the_timeline_shows_even_the_shortest_stay(promtool: str, tmp_path: Path) -> None:
    place = 'gpuid_gpu_info{{cluster="east",node="{}",serial="S",uuid="GPU-1",chassis=""}}'
    dashboard = load(FOLDER / "serial.json")
    exprs = [one.target["expr"] for one in queries(dashboard) if one.panel["title"] == "Where it was"]
    values = {"uuid": "GPU-1", "__range": "7d"}

    def rows(**numbers: float) -> list[dict[str, Any]]:
        labels = '{{cluster="east", node="{}", serial="S", uuid="GPU-1"}}'
        return [{"labels": labels.format(node), "value": value} for node, value in numbers.items()]

    asked = [
        {"eval_time": "95s", "expr": re.sub(r"\$(\w+)", lambda match: values[match[1]], expr), "exp_samples": samples}
        for expr, samples in zip(
            exprs, (rows(n1=1, n2=1, n3=1), rows(n1=0, n2=74_000), rows(n1=60_000, n2=74_000)), strict=True
        )
    ]
    series = [
        {"series": place.format("n1"), "values": "1x31 stale"},  # every two seconds
        {"series": place.format("n2"), "values": "_x32 1x9 stale"},
        {"series": place.format("n3"), "values": "_x46 1x1"},
    ]
    case = {"interval": "2s", "input_series": series, "promql_expr_test": asked}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"evaluation_interval": "1s", "tests": [case]}))
    run = subprocess.run([promtool, "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


class TestWhatTheyShow:
    """Of the troubled fleet, where the truth is known."""

    def number(self, troubled: Troubled, path: str, title: str) -> float:
        dashboard = load(FOLDER / f"{path}.json")
        (asked,) = [one for one in queries(dashboard) if one.panel["title"] == title]
        (one,) = ask(troubled, asked.target, filled(asked.target["expr"], troubled, chosen(dashboard, troubled)))
        return float(one["value"][1])

    def rows(self, troubled: Troubled, path: str, title: str) -> list[dict[str, str]]:
        dashboard = load(FOLDER / f"{path}.json")
        target = next(
            one.target for one in queries(dashboard) if one.panel["title"] == title and one.panel["type"] == "table"
        )
        return [
            one["metric"]
            for one in ask(troubled, target, filled(target["expr"], troubled, chosen(dashboard, troubled)))
        ]

    @pytest.mark.parametrize(
        ("title", "number"),
        [
            ("Nodes", 17),
            ("Clusters down", 2),
            ("Missing GPUs", 1),
            ("Conflicts", 12),
            ("Moves", 1),
        ],
    )
    def test_two_collectors_of_one_fleet_do_not_double_counts(
        self, troubled: Troubled, title: str, number: int
    ) -> None:
        assert self.number(troubled, "fleet", title) == number

    def test_a_gpu_claimed_by_two_nodes_counts_once(self, troubled: Troubled) -> None:
        assert self.number(troubled, "fleet", "GPUs") == troubled.gpus == 55
        assert self.number(troubled, "collector", "Collectors") == 2

    def test_the_gpu_that_moved_while_it_was_degraded_counts_once(self, troubled: Troubled) -> None:
        assert self.number(troubled, "health", "Moved while degraded") == 1

    def test_the_moved_gpu_is_listed_with_its_origin(self, troubled: Troubled) -> None:
        (row,) = [row for row in self.rows(troubled, "fleet", "GPUs that moved") if row["uuid"] == troubled.uuid]
        assert row["serial"] == troubled.serial
        assert (row["from_cluster"], row["from_node"]) == ("sim-1", "gpu-0000")
        assert (row["cluster"], row["node"]) == (troubled.cluster, troubled.node)

    def test_a_search_by_serial_finds_both_places(self, troubled: Troubled) -> None:
        (now,) = self.rows(troubled, "serial", "Where it is now")
        assert (now["cluster"], now["node"], now["uuid"]) == (troubled.cluster, troubled.node, troubled.uuid)
        was = {(row["cluster"], row["node"]) for row in self.rows(troubled, "serial", "Where it was")}
        assert was == {("sim-1", "gpu-0000"), (troubled.cluster, troubled.node)}

    def test_lost_gpus_are_listed_with_their_last_place(self, troubled: Troubled) -> None:
        gone = self.rows(troubled, "fleet", "GPUs that vanished")
        assert sorted((row["cluster"], row["node"]) for row in gone) == [
            *[("sim-1", "gpu-0001")],
            *[("sim-1", "gpu-0002")] * 4,
        ]

    def test_the_unauthorized_cluster_is_shown_as_such(self, troubled: Troubled) -> None:
        states = {row["cluster"]: row["state"] for row in self.rows(troubled, "fleet", "Clusters")}
        assert states == {
            "sim-0": "up",
            "sim-1": "up",
            "sim-2": "up",
            "sim-3": "unreachable",
            "sim-4": "unauthorized",
            "twin": "up",
            "again": "duplicate",
        }


def ask(troubled: Troubled, target: dict[str, Any], expr: str) -> list[dict[str, Any]]:
    """Ask as Grafana does: now, or over the time range."""
    assert target["instant"] != target["range"]
    if target["instant"]:
        return troubled.prometheus.query(expr, troubled.now)
    return troubled.prometheus.range(expr, troubled.start, troubled.now, 1)


def filled(expr: str, troubled: Troubled, values: dict[str, str]) -> str:
    """Put the values of the variables in their places."""
    values = {"__range": f"{troubled.range}s", "__rate_interval": "15s", "__interval": "1s", **values}
    filled = re.sub(r"\$(\w*[a-z]\w*)", lambda match: values[match[1]], expr)
    assert not re.search(r"\$[^1]", filled)
    return filled


def chosen(dashboard: dict[str, Any], troubled: Troubled) -> dict[str, str]:
    """Find what each variable offers, and choose what a link would: the GPU that moved and its node; else all."""
    linked = {"search": troubled.serial, "cluster": troubled.cluster, "node": troubled.node}
    values: dict[str, str] = {}
    for name, variable in variables(dashboard).items():
        if variable["type"] == "textbox":
            values[name] = linked[name]
        elif variable["type"] == "query":
            offered = offers(variable, troubled, values)
            assert offered, name
            if not variable["multi"]:
                assert linked[name] in offered
                values[name] = linked[name]
            else:
                values[name] = variable.get("allValue") or f"({'|'.join(offered)})"
    return values


def offers(variable: dict[str, Any], troubled: Troubled, values: dict[str, str]) -> list[str]:
    """Run a variable's query as Grafana does."""
    query = filled(variable["query"]["query"], troubled, values)
    if match := re.fullmatch(r"label_values\((.+), (\w+)\)", query):
        return troubled.prometheus.label_values(match[2], match[1])
    result = re.fullmatch(r"query_result\((.+)\)", query)
    assert result, query
    pattern = variable["regex"].strip("/")
    lines = [
        "{" + ",".join(f'{name}="{value}"' for name, value in series["metric"].items()) + "} 1 1764000000000"
        for series in troubled.prometheus.query(result[1], troubled.now)
    ]
    found = [re.search(pattern, line) for line in lines]
    assert None not in found, lines
    return sorted({match[1] for match in found if match})
