"""`gpuid where`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid
from tests.support.http import served


def where(*args: str | Path) -> Result:
    return CliRunner().invoke(gpuid, ["where", *map(str, args)])


@pytest.mark.parametrize("term", ["100", "gpu-A1", "C1"])
def test_the_present_place_comes_before_the_past_ones(history_config: Path, term: str):
    result = where(term, "--config", history_config)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[:2] for line in result.stdout.splitlines()] == [
        ["CLUSTER", "NODE"],
        ["prod", "n2"],
        ["prod", "n1"],
    ]


def test_json_is_the_rows_of_the_api(history_config: Path):
    now, before = json.loads(where("100", "--json", "--config", history_config).stdout)
    assert (now["node"], now["until"]) == ("n2", None)
    assert (before["node"], before["until"]) == ("n1", now["since"])


def test_nothing_found_is_exit_1_and_a_note(history_config: Path):
    result = where("999", "--config", history_config)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "No GPUs found.\n")


def test_an_absent_store_is_one_line_and_exit_2(tmp_path: Path):
    config = tmp_path / "gpuid.toml"
    config.write_text(
        f'[[clusters]]\ncontext = "prod"\n[store]\nurl = "sqlite://{tmp_path}/none.db"\n', encoding="utf-8"
    )
    result = where("100", "--config", config)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert f"{tmp_path}/none.db" in result.stderr


def test_no_collector_at_the_url_is_exit_2():
    result = where("100", "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("command", ["where S-1", "where GPU-a1", "history n1"])
def test_a_last_known_serial_is_marked_and_found(altered_config: Path, command: str):
    _, line = (
        CliRunner().invoke(gpuid, [*command.split(), "-o", "wide", "--config", str(altered_config)]).stdout.splitlines()
    )
    assert "S-1 (last known)" in line
    assert "serial S-1 → not reported, MIG off → on" in line


def change(time: str, **fields: tuple[Any, Any]) -> Mapping[str, Any]:
    changes = {field: {"before": before, "after": after} for field, (before, after) in fields.items()}
    return {"time": f"2026-11-{time}:00:00Z", "changes": changes}


THERE = {
    "uuid": "GPU-a1",
    "serial": "100",
    "model": "NVIDIA H100",
    "chassis": None,
    "cluster": "prod",
    "node": "n2",
    "since": "2026-11-25T10:00:00Z",
    "until": None,
    "confirmed_at": "2026-11-26T08:00:00Z",
    "altered": [],
    "health_changes": [
        change("26T07", row_remap_failure=(False, True)),
        change("25T11", remapped_rows_uncorrectable=(0, 2), row_remap_pending=(False, True)),
    ],
    "degraded": ["row_remap_failure", "row_remap_pending"],
    "level": "replace",
    "mark": {
        "kind": "rma",
        "note": "hot potato",
        "ticket": "OPS-12",
        "until": "2026-12-01T00:00:00Z",
        "set_at": "2026-11-26T07:30:00Z",
        "set_by": "ann",
    },
}
BEFORE = THERE | {"node": "n1", "since": "2026-11-01T00:00:00Z", "until": "2026-11-25T10:00:00Z", "health_changes": []}
OTHER = {"uuid": "GPU-b1", "serial": None, "cluster": "prod", "node": "n2", "until": "2026-11-02T00:00:00Z"} | {
    "level": "reset",
    "degraded": ["lost"],
}


@pytest.fixture
def worn() -> Iterator[str]:
    """A collector that knows a GPU that wore out while it was on its second node, and one that left."""
    body = json.dumps({"placements": [THERE, BEFORE, OTHER], "next": None}).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        yield f"http://{address}"


@pytest.mark.parametrize("command", ["where", "history"])
def test_health_stands_among_the_places_in_the_order_of_time(worn: str, command: str) -> None:
    lines = CliRunner().invoke(gpuid, [command, "100", "-o", "wide", "--url", worn]).stdout.splitlines()
    since = lines[0].index("SINCE")
    assert [line[since : since + 16] for line in lines[1:5]] == [
        "2026-11-25T10:00",
        "2026-11-26T07:00",
        "2026-11-25T11:00",
        "2026-11-01T00:00",
    ]
    assert "health: row remapping failed no → yes" in lines[2]
    assert "health: remapped rows (uncorrectable) 0 → 2, row remapping pending no → yes" in lines[3]


@pytest.mark.parametrize("command", ["where", "history"])
def test_what_to_know_of_a_gpu_now_comes_last(worn: str, command: str) -> None:
    assert CliRunner().invoke(gpuid, [command, "100", "--url", worn]).stdout.splitlines()[-3:] == [
        "",
        "100 needs replacement (row_remap_failure, row_remap_pending) and is marked rma by ann since"
        " 2026-11-26T07:30:00Z until 2026-12-01T00:00:00Z (OPS-12: hot potato)",
        "GPU-b1 needed a reset or drain (lost) when it was read last",
    ]


@pytest.mark.parametrize("command", ["where", "history"])
def test_an_older_collector_without_conditions_is_shown(command: str) -> None:
    old = {name: value for name, value in BEFORE.items() if name not in ("health_changes", "degraded", "level", "mark")}
    body = json.dumps({"placements": [old], "next": None}).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        result = CliRunner().invoke(gpuid, [command, "100", "--url", f"http://{address}"])
    assert (result.exit_code, result.stderr, len(result.stdout.splitlines())) == (0, "", 2)
