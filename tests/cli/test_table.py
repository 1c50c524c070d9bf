"""Tables on standard output."""

import json
from typing import Any

import pytest

from collector.cli.table import print_rows, print_table, result_style

ROWS: list[dict[str, Any]] = [{"node": "n1", "until": None}, {"node": "n2", "until": "today"}]


def test_columns_are_aligned_and_absent_values_dashes(capsys: pytest.CaptureFixture[str]):
    assert print_table(("node", "driver_version"), [("n1", None), ("node-2", "580.1")]) == 2
    assert capsys.readouterr().out == "NODE    DRIVER\nn1      -\nnode-2  580.1\n"


def test_without_rows_the_heading_stands_alone(capsys: pytest.CaptureFixture[str]):
    assert print_table(("node",), []) == 0
    assert capsys.readouterr().out == "NODE\n"


def test_rows_are_a_table_or_a_json_array(capsys: pytest.CaptureFixture[str]):
    print_rows(ROWS, ("node", "until"), as_json=False, nothing="None found.")
    assert capsys.readouterr() == ("NODE  UNTIL\nn1    -\nn2    today\n", "")
    print_rows(ROWS, ("node",), as_json=True, nothing="None found.")
    out, err = capsys.readouterr()
    assert (json.loads(out), len(out.splitlines()), err) == (ROWS, 4, "")


def test_without_rows_there_is_a_note_on_stderr(capsys: pytest.CaptureFixture[str]):
    print_rows([], ("node",), as_json=False, nothing="None found.")
    assert capsys.readouterr() == ("", "None found.\n")
    print_rows([], ("node",), as_json=True, nothing="None found.")
    assert capsys.readouterr() == ("[]\n", "None found.\n")


@pytest.mark.parametrize(
    ("result", "style"), [("ok", "green"), ("ok (ready)", "green"), ("okay", "red"), ("failed", "red")]
)
def test_only_ok_is_green(result: str, style: str):
    assert result_style(result) == style
