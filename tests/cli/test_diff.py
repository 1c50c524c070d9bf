"""`gpuid diff`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid


def diff(*args: str | Path) -> Result:
    return CliRunner().invoke(gpuid, ["diff", *map(str, args)])


def test_it_lists_changes_oldest_first_and_counts_them(history_config: Path):
    result = diff("--config", history_config)
    assert (result.exit_code, result.stderr) == (0, "")
    _, *lines, _, summary = result.stdout.splitlines()
    assert [line.split()[1:4] for line in lines] == [["appeared", "prod", "n1"], ["moved", "prod", "n2"]]
    assert summary == "1 appeared, 1 moved, 0 vanished, 0 altered, 0 health"


def test_counts_cover_all_changes_regardless_of_the_limit(history_config: Path) -> None:
    told = " ".join(diff("--limit", "1", "--config", history_config).stdout.split())
    assert told.endswith("1 appeared, 1 moved, 0 vanished, 0 altered, 0 health; the first 1 of 2 changes are shown")


def test_a_table_says_where_a_gpu_moved_from(history_config: Path):
    assert diff("--event", "moved", "--config", history_config).stdout.splitlines()[1].endswith("100     from n1")


def test_since_excludes_older_changes(history_config: Path):
    (row,) = json.loads(diff("--since", "10m", "--json", "--config", history_config).stdout)
    assert (row["event"], row["previous_node"]) == ("moved", "n1")


def test_it_can_show_a_past_time_range(history_config: Path) -> None:
    (row,) = json.loads(diff("--from", "1d ago", "--to", "10m", "-o", "json", "--config", history_config).stdout)
    assert (row["event"], row["node"]) == ("appeared", "n1")
    header, line = diff("--from", "2h", "--to", "10m", "-o", "csv", "--config", history_config).stdout.splitlines()
    assert (header.split(",")[:3], line.split(",")[2]) == (["id", "time", "event"], "appeared")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("--since", "soon"), "expected a time such as 2026-11-24T12:00:00Z"),
        (("--to", "2099-01-01"), "expected a time in the past, got '2099-01-01'"),
        (("--from", "1h", "--to", "2h"), "--to: expected a later time than --from"),
    ],
)
def test_a_bad_time_is_one_line(history_config: Path, args: tuple[str, ...], error: str) -> None:
    result = diff(*args, "--config", history_config)
    assert result.exit_code == 2
    assert error in result.stderr.splitlines()[-1]


def test_events_are_filtered_and_counted(history_config: Path) -> None:
    *_, line, _, summary = diff("--event", "moved", "--event", "health", "--config", history_config).stdout.splitlines()
    assert (line.split()[1], summary) == ("moved", "1 moved, 0 health")
    assert "'found' is not one of 'appeared', 'moved'" in diff("--event", "found").stderr


@pytest.mark.parametrize("args", [("--since", "1s"), ("--cluster", "lab")])
def test_nothing_found_is_exit_1_and_a_note(history_config: Path, args: tuple[str, ...]):
    result = diff(*args, "--config", history_config)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "No changes found.\n")


def test_an_alteration_shows_the_old_value(altered_config: Path):
    *_, line, _, summary = diff("--config", altered_config, "-o", "wide").stdout.splitlines()
    assert "serial S-1 → not reported, MIG off → on" in line
    assert summary == "1 appeared, 0 moved, 0 vanished, 1 altered, 0 health"
    appeared, altered = json.loads(diff("--config", altered_config, "--json").stdout)
    assert appeared["changes"] is None
    assert altered["changes"] == {
        "serial": {"before": "S-1", "after": None},
        "mig": {"before": False, "after": True},
    }
