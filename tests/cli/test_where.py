"""`gpuid where`."""

import csv
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


@pytest.mark.parametrize("term", ["100", "gpu-A1", "S/N:100"])
def test_the_present_place_comes_before_the_past_ones(history_config: Path, term: str):
    result = where(term, "--config", history_config)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[:3] for line in result.stdout.splitlines()] == [
        ["STATE", "CLUSTER", "NODE"],
        ["found", "prod", "n2"],
        ["past", "prod", "n1"],
    ]


def test_every_id_of_a_file_has_a_row_in_its_order(history_config: Path, tmp_path: Path):
    (tmp_path / "ids.csv").write_text("\ufeffSerial\n999\n100\nC1\n", encoding="utf-8")
    options = ("--config", history_config, "-o", "csv")
    result = where("-f", tmp_path / "ids.csv", *options)
    assert result.exit_code == 0
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert [(row["id"], row["kind"], row["state"], row["node"]) for row in rows] == [
        ("999", "", "not_found", ""),
        ("100", "serial", "found", "n2"),
        ("C1", "chassis", "found", "n2"),
    ]
    assert result.stderr.startswith("999: not found. Not among the 1 GPU on 2 nodes across 1 cluster")
    piped = CliRunner().invoke(gpuid, ["where", "-f", "-", *map(str, options)], input="Serial\n999\n100\nC1\n")
    assert (piped.stdout, piped.exit_code) == (result.stdout, 0)


def test_ids_that_are_not_found_are_reported_together(history_config: Path):
    result = where("999", "998", "--config", history_config)
    assert result.exit_code == 1
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [["999", "not_found"], ["998", "not_found"]]
    assert result.stderr.startswith("2 of 2 ids not found. Not among the 1 GPU on 2 nodes")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "expected at least one ID, or --file"),
        ([" , "], "expected at least one ID, or --file"),
        (["1" * 501], "expected at most 500 characters, got 501"),
        (["1 " * 10_001], "expected at most 10,000 ids at once"),
        (["-f", "/nowhere"], "'/nowhere': No such file or directory"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(history_config: Path, args: list[str], text: str):
    result = where(*args, "--config", history_config)
    assert (result.exit_code, result.stdout) == (2, "")
    assert text in result.stderr


def test_a_running_collector_gives_the_same_answer(serving: Any):
    with serving() as url:
        result = where("100", "102 103", "9999", "-o", "json", "--url", url)
    rows = json.loads(result.stdout)
    assert [(row["id"], row["state"], row["node"]) for row in rows] == [
        ("100", "found", "n1"),
        ("102", "found", "n2"),
        ("103", "found", "n2"),
        ("9999", "not_found", None),
    ]
    assert "keeps no history" in result.stderr


def test_json_is_the_rows_of_the_api(history_config: Path):
    now, before = json.loads(where("100", "--json", "--config", history_config).stdout)
    assert (now["node"], now["until"]) == ("n2", None)
    assert (before["node"], before["until"]) == ("n1", now["since"])


def began(config: Path) -> str:
    """Return when the history of the rows began, as a sentence has it."""
    rows = json.loads(where("100", "-o", "json", "--config", config).stdout)
    return str(rows[-1]["since"]).partition(".")[0] + "Z"


def test_nothing_found_is_exit_1_and_a_note(history_config: Path):
    result = where("999", "--config", history_config)
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "999: not found. Not among the 1 GPU on 2 nodes across 1 cluster in the last recorded state or in the history,"
        f" which goes back to {began(history_config)}. This is the state in the store: only a running collector knows"
        " which clusters cannot be reached and which nodes cannot be read now; query it with --url. Partial matches"
        " need at least 4 characters.\n",
    )


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
    found: list[dict[str, Any]] = [
        {"id": "100", "kind": "serial", "state": "found", "module": None}
        | {name: THERE.get(name) for name in ("uuid", "serial", "model", "cluster", "node", "since", "until")},
        {"id": "100", "kind": "serial", "state": "gone", "uuid": "GPU-b1", "cluster": "prod", "node": "n2"}
        | {"until": OTHER["until"]},
    ]
    with served(looked_up(found, {"GPU-a1": [THERE, BEFORE], "GPU-b1": [OTHER]}), "application/json") as address:
        yield f"http://{address}"


def looked_up(found: list[dict[str, Any]], lives: Mapping[str, Any]) -> Any:
    """Return what answers a look-up, and then with each life for its history; without a body, with all of them."""
    searched = {"clusters": 1, "nodes": 1, "gpus": 1, "clusters_down": [], "nodes_unread": 0, "history": True}
    searched |= {"history_since": None, "history_error": None, "text": ""}
    result = {"id": "100", "found": True, "kind": "serial", "total": len(found), "matches": found, "note": ""}
    answer = {"results": [result], "found": 1, "not_found": 0, "searched": searched}
    rest: list[Any] = []

    def respond(_headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        if body:
            rest.extend(lives.values())
            return 200, json.dumps(answer).encode()
        placements = rest.pop(0) if rest else [row for life in lives.values() for row in life]
        return 200, json.dumps({"placements": placements, "next": None}).encode()

    return respond


@pytest.mark.parametrize("command", ["where", "history"])
def test_health_changes_are_listed_among_placements_by_time(worn: str, command: str) -> None:
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
def test_the_current_condition_of_a_gpu_comes_last(worn: str, command: str) -> None:
    assert CliRunner().invoke(gpuid, [command, "100", "--url", worn]).stdout.splitlines()[-5:] == [
        "",
        "100 needs replacement (row_remap_failure, row_remap_pending) and is marked rma",
        "by ann since 2026-11-26T07:30:00Z until 2026-12-01T00:00:00Z (OPS-12: hot",
        "potato)",
        "GPU-b1 needed a reset or drain (lost) when last read",
    ]


@pytest.mark.parametrize("command", ["where", "history"])
def test_an_older_collector_without_conditions_is_shown(command: str) -> None:
    old = {name: value for name, value in BEFORE.items() if name not in ("health_changes", "degraded", "level", "mark")}
    found: dict[str, Any] = {"id": "100", "kind": "serial", "state": "gone", "uuid": "GPU-a1", "cluster": "prod"}
    found["node"] = "n1"
    found["until"] = BEFORE["until"]
    with served(looked_up([found], {"GPU-a1": [old]}), "application/json") as address:
        result = CliRunner().invoke(gpuid, [command, "100", "--url", f"http://{address}"])
    assert (result.exit_code, result.stderr, len(result.stdout.splitlines())) == (0, "", 2)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_a_file_is_read_as_spreadsheets_write_it(history_config: Path, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ids.txt").write_text("Serial\r\n100\r\n", encoding=encoding)
    result = where("-f", tmp_path / "ids.txt", "-o", "json", "--config", history_config)
    assert [row["id"] for row in json.loads(result.stdout)] == ["100"]


def test_a_file_in_another_encoding_says_what_was_expected(history_config: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes("Gerät;100\n".encode("cp1252"))
    result = where("-f", tmp_path / "ids.txt", "--config", history_config)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "expected UTF-8 text (from a spreadsheet, save as CSV UTF-8)" in result.stderr
