"""`gpuid where`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid


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


def test_nothing_found_is_a_note(history_config: Path):
    result = where("999", "--config", history_config)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No GPUs found.\n")


def test_an_absent_store_is_one_line_and_exit_2(tmp_path: Path):
    config = tmp_path / "gpuid.toml"
    config.write_text(
        f'[[clusters]]\ncontext = "prod"\n[store]\nurl = "sqlite://{tmp_path}/none.db"\n', encoding="utf-8"
    )
    result = where("100", "--config", config)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert f"{tmp_path}/none.db" in result.stderr


def test_no_collector_at_the_url_is_exit_1():
    result = where("100", "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize("command", ["where S-1", "where GPU-a1", "history n1"])
def test_a_last_known_serial_is_marked_and_found(altered_config: Path, command: str):
    _, line = CliRunner().invoke(gpuid, [*command.split(), "--config", str(altered_config)]).stdout.splitlines()
    assert "S-1 (last known)" in line
    assert line.endswith("serial S-1 → not reported, MIG off → on")
