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


def test_since_leaves_older_changes_out(history_config: Path):
    (row,) = json.loads(diff("--since", "10m", "--json", "--config", history_config).stdout)
    assert (row["event"], row["previous_node"]) == ("moved", "n1")


def test_events_are_chosen_and_counted(history_config: Path) -> None:
    *_, line, _, summary = diff("--event", "moved", "--event", "health", "--config", history_config).stdout.splitlines()
    assert (line.split()[1], summary) == ("moved", "1 moved, 0 health")
    assert "'found' is not one of 'appeared', 'moved'" in diff("--event", "found").stderr


@pytest.mark.parametrize("args", [("--since", "1s"), ("--cluster", "lab")])
def test_nothing_found_is_exit_1_and_a_note(history_config: Path, args: tuple[str, ...]):
    result = diff(*args, "--config", history_config)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "No changes found.\n")


def test_an_alteration_says_what_it_was(altered_config: Path):
    *_, line, _, summary = diff("--config", altered_config, "-o", "wide").stdout.splitlines()
    assert "serial S-1 → not reported, MIG off → on" in line
    assert summary == "1 appeared, 0 moved, 0 vanished, 1 altered, 0 health"
    appeared, altered = json.loads(diff("--config", altered_config, "--json").stdout)
    assert appeared["changes"] is None
    assert altered["changes"] == {
        "serial": {"before": "S-1", "after": None},
        "mig": {"before": False, "after": True},
    }
