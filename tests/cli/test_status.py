"""`gpuid status`."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid
from collector.inventory import Inventory
from tests.support.http import served
from tests.support.terminal import Terminal

Serving = Callable[..., AbstractContextManager[str]]


def status(*args: str) -> Result:
    return CliRunner().invoke(gpuid, ["status", *args])


def test_problems_are_listed_the_severe_ones_first_and_exit_1(serving: Serving) -> None:
    with serving(down=["prod-b"]) as url:
        result = status("--url", url)
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout == (
        "severe  prod-a is missing 13 GPUs on 2 nodes\n"
        "severe  prod-b is unreachable, since 2025-11-24T16:00:00.000Z\n"
        "        refused\n"
        "severe  prod-b is missing 6 GPUs on 1 node\n"
        "\n"
        "3 problems, 3 of them severe.\n"
    )


def test_json_is_the_rows_of_the_api(serving: Serving) -> None:
    with serving() as url:
        result = status("--url", url, "--json")
        assert status("--url", url, "-o", "json").stdout == result.stdout
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [(row["name"], row["nodes"], row["severe"]) for row in rows] == [
        ("prod-a", "missing", True),
        ("prod-b", "missing", True),
    ]


def test_a_cluster_chooses_its_own(serving: Serving) -> None:
    with serving() as url:
        rows = json.loads(status("--url", url, "--json", "--cluster", "prod-b").stdout)
    assert [row["name"] for row in rows] == ["prod-b"]


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
            "knows no /api/v1/problems; it may be an older collector than this command",
        ),
        ((400, b'{"detail": "cluster: expected one of prod-a"}'), "cluster: expected one of prod-a"),
        ((200, b"[]"), "the response is not from a gpuid collector"),
        ((200, b'{"next": null, "total": 1, "problems": [{}]}'), "the response is not from a gpuid collector"),
        ((503, b""), "answers 503 Service Unavailable"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_exit_2(answer: tuple[int, bytes], text: str) -> None:
    with served(lambda _headers, _body: answer, "application/json") as address:
        result = status("--url", f"http://{address}")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"gpuid: http://{address}: {text}\n")


def test_no_collector_is_exit_2() -> None:
    result = status("--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


ODD = "a\x1b[31m\u202e\rz"
HOSTILE: Mapping[str, Any] = {"severe": [7], "subject": ODD, "text": {ODD: ODD}, "detail": [ODD], "since": 7}


def test_an_answer_may_be_anything() -> None:
    body = json.dumps({"next": None, "total": 1, "problems": [HOSTILE]}).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        results = [status("--url", f"http://{address}", *args) for args in ((), ("--json",))]
    for result in results:
        assert (result.exit_code, result.stderr) == (1, "")
        assert result.stdout.replace("\n", "").isprintable()


LONG = {
    "severe": False,
    "subject": "prod",
    "text": "has 7 GPUs that do not answer",
    "detail": ", ".join(f"165392200{n}234 in gpu-node-{n}" for n in range(7)),
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
    assert lines[0] == "minor   prod has 7 GPUs that do not answer"
    assert " ".join(line.strip() for line in narrow[1:-2]) == LONG["detail"]


def test_a_terminal_shows_severe_problems_in_red(serving: Serving) -> None:
    with serving() as url, Terminal("status", "--url", url) as terminal:
        assert terminal.end() == 1
        assert terminal.text.startswith("\x1b[31msevere  \x1b[0mprod-a is missing")
