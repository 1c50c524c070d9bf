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
