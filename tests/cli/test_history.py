"""`gpuid history`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid


def history(*args: str | Path) -> Result:
    return CliRunner().invoke(gpuid, ["history", *map(str, args)])


def test_it_lists_the_gpus_that_were_in_the_node(history_config: Path):
    (row,) = json.loads(history("n1", "--json", "--config", history_config).stdout)
    assert (row["cluster"], row["node"], row["uuid"], row["until"] is None) == ("prod", "n1", "GPU-a1", False)


@pytest.mark.parametrize("args", [("n9",), ("n1", "--cluster", "lab")])
def test_nothing_found_is_exit_1_and_a_note(history_config: Path, args: tuple[str, ...]):
    result = history(*args, "--config", history_config)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "No GPUs found.\n")


def test_a_time_range_lists_the_gpus_present_in_it(history_config: Path):
    def count(*args: str) -> int:
        return len(json.loads(history("n1", *args, "-o", "json", "--config", history_config).stdout))

    assert count("--since", "2h") == count("--since", "30m", "--until", "10m") == 1
    assert count("--since", "10s") == 0  # it has left a minute ago
    assert count("--until", "2h") == 0
    assert "expected a time such as" in history("n1", "--since", "soon").stderr


def test_with_events_it_lists_alterations(altered_config: Path):
    *_, line, _, summary = history(
        "n1", "--event", "altered", "-o", "wide", "--config", altered_config
    ).stdout.splitlines()
    assert "serial S-1 → not reported, MIG off → on" in line
    assert summary == "1 altered"


def test_with_events_it_lists_departures_from_the_node(history_config: Path):
    moved = json.loads(history("n1", "--event", "moved", "-o", "json", "--config", history_config).stdout)
    assert [(row["node"], row["previous_node"]) for row in moved] == [("n2", "n1")]
    result = history("n1", "--event", "health", "--config", history_config)
    assert (result.exit_code, result.stderr) == (1, "No changes found.\n")
