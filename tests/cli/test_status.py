"""`gpuid status`."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid
from collector.inventory import Inventory
from collector.model import Reading
from tests.support.http import served
from tests.support.terminal import Terminal

Serving = Callable[..., AbstractContextManager[str]]


def status(*args: str) -> Result:
    return CliRunner().invoke(gpuid, ["status", *args])


def test_problems_are_listed_the_worst_first_and_exit_1(serving: Serving) -> None:
    with serving(down=["prod-b"]) as url:
        result = status("--url", url)
    assert (result.exit_code, result.stderr) == (1, "")
    first, *rest = result.stdout.splitlines()
    assert re.fullmatch(r"critical  prod-b is unreachable, for \d+d", first)
    assert rest == [
        "          refused",
        "          → Check the network and the API server; `gpuid check --cluster prod-b`",
        "          connects. The last known state is shown.",
        "warning   19 GPUs missing on 3 nodes across 2 clusters",
        "          n1 (prod-a), n2 (prod-a), n3 (prod-b)",
        "          → Look for Xid 79 in the node's kernel log, restart the node, and",
        "          check the named seat.",
        "",
        "2 problems: 1 critical, 1 warning.",
    ]


def test_json_is_the_rows_of_the_api(serving: Serving) -> None:
    with serving() as url:
        result = status("--url", url, "--json")
        assert status("--url", url, "-o", "json").stdout == result.stdout
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout)
    assert (row["kind"], row["severity"], row["clusters"]) == ("gpu_missing", "warning", ["prod-a", "prod-b"])


def test_wide_and_csv_have_the_columns_of_the_api(serving: Serving) -> None:
    with serving() as url:
        wide, csv = (status("--url", url, "-o", form) for form in ("wide", "csv"))
    assert (wide.exit_code, csv.exit_code) == (1, 1)
    assert {"SEVERITY", "TITLE", "REASON", "REMEDY"} <= set(wide.stdout.split("\n")[0].split())
    assert csv.stdout.split("\n")[0].startswith("id,severity,kind,title,")


def test_a_cluster_filters_its_problems(serving: Serving) -> None:
    with serving() as url:
        rows = json.loads(status("--url", url, "--json", "--cluster", "prod-b").stdout)
    assert [row["clusters"] for row in rows] == [["prod-b"]]


def test_a_missing_gpu_is_named(serving: Serving, inventory: Inventory) -> None:
    for node in inventory.nodes("prod-a").values():
        capacity = msgspec.structs.replace(node.node, capacity=len(node.gpus))
        inventory.set_node("prod-a", capacity)
    inventory.remove_cluster("prod-b", 1764000001.0)
    place, state = next((node.place, node) for node in inventory.nodes("prod-a").values() if len(node.gpus) > 1)
    gone, *left = state.gpus
    assert state.fingerprint is not None
    reading = Reading(
        cluster=place.cluster,
        node=state.node,
        source="p",
        fingerprint=state.fingerprint,
        time=1764000900.0,
        driver_version=None,
        cuda_version=None,
        gpus=tuple(left),
    )
    inventory.apply(reading)
    with serving() as url:
        lines = status("--url", url, "--cluster", "prod-a").stdout
    told = " ".join(lines.split())
    assert f"1 GPU missing on {place.node} (prod-a), for" in told
    assert f"serial {gone.serial}, {gone.uuid}" in told
    assert "last seen 2025-11-24T16:00:00.000Z" in told


@pytest.mark.parametrize(("args", "printed"), [((), "No problems.\n"), (("--json",), "[]\n")])
def test_nothing_wrong_is_exit_0(serving: Serving, inventory: Inventory, args: tuple[str, ...], printed: str) -> None:
    for cluster in ("prod-a", "prod-b"):
        inventory.remove_cluster(cluster, 1764000001.0)
    with serving() as url:
        result = status("--url", url, *args)
    assert (result.exit_code, result.stdout) == (0, printed)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (
            (404, b'{"detail": "there is no such path", "code": "unknown_path"}'),
            "has no /api/v1/problems; the collector may be older than this command",
        ),
        ((400, b'{"detail": "cluster: expected one of prod-a"}'), "cluster: expected one of prod-a"),
        ((200, b"[]"), "the response is not from a gpuid collector"),
        ((200, b'{"next": null, "total": 1, "problems": [{}]}'), "the response is not from a gpuid collector"),
        ((503, b""), "responds with 503 Service Unavailable"),
    ],
)
def test_an_invalid_request_is_one_line_and_exit_2(answer: tuple[int, bytes], text: str) -> None:
    with served(lambda _headers, _body: answer, "application/json") as address:
        result = status("--url", f"http://{address}")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"gpuid: http://{address}: {text}\n")


def test_no_collector_is_exit_2() -> None:
    result = status("--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


ODD = "a\x1b[31m\u202e\rz"
HOSTILE: Mapping[str, Any] = {
    "severity": [ODD],
    "title": {ODD: ODD},
    "reason": [ODD],
    "since": 7,
    "remedy": 8,
    "gpus": [7, {"serial": ODD, "module": [ODD]}],
    "nodes": [7, {"node": [ODD]}],
    "nodes_total": 8,
}


def test_an_answer_may_be_anything() -> None:
    body = json.dumps({"next": None, "total": 1, "problems": [HOSTILE]}).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        results = [status("--url", f"http://{address}", *args) for args in ((), ("--json",))]
    for result in results:
        assert (result.exit_code, result.stderr) == (1, "")
        assert result.stdout.replace("\n", "").isprintable()


LONG = {
    "severity": "warning",
    "title": "7 GPUs on 7 nodes of prod do not respond",
    "reason": ", ".join(f"165392200{n}234 in gpu-node-{n}" for n in range(7)),
}


def test_lines_are_at_most_80_columns_wide() -> None:
    body = json.dumps({"next": None, "total": 1, "problems": [LONG]}).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        lines = status("--url", f"http://{address}").stdout.splitlines()
        with Terminal("status", "--url", f"http://{address}", columns=60, env={"NO_COLOR": "1"}) as terminal:
            assert terminal.end() == 1
            narrow = terminal.text.splitlines()
    assert max(map(len, lines)) <= 80
    assert max(map(len, narrow)) <= 60
    assert lines[0] == "warning   7 GPUs on 7 nodes of prod do not respond"
    assert " ".join(line.strip() for line in narrow[1:-2]) == LONG["reason"]


def test_a_terminal_shows_critical_problems_in_red(serving: Serving) -> None:
    with serving(down=["prod-b"]) as url, Terminal("status", "--url", url) as terminal:
        assert terminal.end() == 1
        assert terminal.text.startswith("\x1b[31mcritical  \x1b[0mprod-b is unreachable")


def told(problem: Mapping[str, Any], *args: str) -> str:
    body = json.dumps({"next": None, "total": 1, "problems": [problem]}).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        return status("--url", f"http://{address}", *args).stdout


def test_clusters_counted_in_the_title_are_named() -> None:
    clusters = [f"sim-{number}" for number in range(12)]
    problem = {
        "severity": "critical",
        "title": "12 clusters are unreachable",
        "reason": "refused",
        "clusters": clusters,
    }
    assert "sim-0, sim-1, sim-2, sim-3, sim-4, sim-5, sim-6, sim-7, sim-8, sim-9 and 2 more" in " ".join(
        told(problem).split()
    )
    wide = told(problem, "-o", "wide")
    assert "CLUSTERS" in wide
    assert ",".join(clusters) in wide


def test_each_gpu_is_named_with_its_node_and_the_rest_is_counted() -> None:
    gpus = [{"serial": f"165{n}", "node": f"gpu-{n}", "cluster": f"sim-{n}", "module": n} for n in range(5)]
    text = " ".join(
        told({"severity": "warning", "title": "5 GPUs", "reason": "", "gpus": gpus, "gpus_total": 5}).split()
    )
    assert "serial 1650, on gpu-0 (sim-0), module 0 serial 1651, on gpu-1 (sim-1), module 1" in text
    assert "and 2 more GPUs (see -o json)" in text


def test_names_longer_than_a_line_are_cut() -> None:
    arn = "arn:aws:eks:us-east-1:111122223333:cluster/prod-training-h100-long-name-0007"
    nodes = [{"node": f"gpu-{number}", "cluster": arn} for number in range(2)]
    problem = {"severity": "warning", "title": f"2 nodes of {arn}", "reason": "x" * 200, "nodes": nodes}
    assert max(map(len, told(problem).splitlines())) <= 80


def test_without_standard_output_the_exit_code_still_tells(serving: Serving) -> None:
    with serving() as url:
        command = [sys.executable, "-m", "collector", "status", "--url", url]
        result = subprocess.run(
            ["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert (result.returncode, result.stderr) == (1, b"")
