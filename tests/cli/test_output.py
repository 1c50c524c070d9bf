"""The options of lists and what they print: formats, order, limits, ages, watching and exit codes."""

import csv
import io
import json
import random
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from collector.cli.errors import CommandError
from collector.cli.output import Output, Sort, age, layout_of, output_options, show_rows, sorted_rows
from collector.timestamps import rfc3339
from collector.views.columns import Time, rest, table, wide


class NodeLine(msgspec.Struct):
    node: Annotated[str, table("Node.")]
    state: Annotated[str, table("State.")]
    seen_at: Annotated[Time | None, wide("When it was seen.")]
    gpus: Annotated[int | None, rest("GPUs.")]
    tags: Annotated[list[str], rest("Anything.")]


class Seen(msgspec.Struct):
    seen_at: Annotated[Time, table("When it was seen.")]


LAYOUT = layout_of(NodeLine)
COLUMNS = (*LAYOUT.keys, "tags")
ROWS: list[dict[str, Any]] = [
    {"node": "n10", "state": "lost", "seen_at": "2026-11-01T00:00:00.000Z", "gpus": 8, "tags": ["a", "b"]},
    {"node": "n2", "state": "found", "seen_at": None, "gpus": None, "tags": {"x": True}},
    {"node": "n1", "state": "=1+1", "seen_at": "2026-11-02T00:00:00.000Z", "gpus": 9, "tags": []},
]


def run(*args: str, rows: Iterable[dict[str, Any]] = ROWS, **options: Any) -> Result:
    @click.command()
    @click.argument("term", required=False)
    @output_options(LAYOUT, watch=True)
    def command(term: str | None, output: Output) -> None:
        show_rows(LAYOUT, lambda: rows, output, nothing="No nodes found.", **options)

    return CliRunner().invoke(command, args)


def nodes(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [row["node"] for row in json.loads(result.stdout)]


class TestFormats:
    def test_a_table_has_few_columns_and_wide_has_more(self):
        assert run("--limit", "1").stdout == "NODE  STATE\nn10   lost\n"
        assert run("--limit", "1", "-o", "wide").stdout == (
            "NODE  STATE  SEEN_AT\nn10   lost   2026-11-01T00:00:00.000Z\n"
        )

    def test_json_is_one_array_with_one_row_per_line(self):
        result = run("-o", "json")
        assert json.loads(result.stdout) == ROWS
        assert len(result.stdout.splitlines()) == 5
        assert run("--json").stdout == result.stdout

    def test_csv_has_every_column_and_no_formulas(self):
        rows = list(csv.DictReader(io.StringIO(run("-o", "csv").stdout)))
        assert [tuple(row) for row in rows] == [COLUMNS] * 3
        assert [(row["gpus"], row["tags"]) for row in rows] == [("8", "a,b"), ("", '{"x":true}'), ("9", "")]
        assert rows[2]["state"] == "'=1+1"

    @pytest.mark.parametrize("output", ["table", "wide", "csv"])
    def test_headings_can_be_left_out(self, output: str):
        with_heading = run("-o", output).stdout.split("\n")
        assert run("-o", output, "--no-headers").stdout.split("\n") == with_heading[1:]

    def test_a_table_says_how_long_ago_times_are(self):
        layout = layout_of(Seen)

        @click.command()
        @output_options(layout)
        def command(output: Output) -> None:
            show_rows(layout, lambda: [{"seen_at": rfc3339(time.time() - 7300)}], output, nothing="")

        assert CliRunner().invoke(command, []).stdout == "SEEN_AT\n121m\n"
        assert "wide" not in CliRunner().invoke(command, ["--help"]).output

    def test_tables_may_use_different_wording(self):
        options: dict[str, Any] = {"cells": lambda row: {"state": row["state"].upper()}}
        assert "LOST" in run(**options).stdout
        assert "LOST" not in run("-o", "csv", **options).stdout

    def test_a_footer_follows_tables_alone(self):
        options: dict[str, Any] = {"footer": lambda rows: [f"{len(rows)} in all"]}
        assert run("--limit", "2", **options).stdout.endswith("\n\n2 in all\n")
        assert "in all" not in run("-o", "csv", **options).stdout

    def test_without_a_heading_nothing_but_rows_is_on_standard_output(self):
        options: dict[str, Any] = {"footer": lambda rows: [f"{len(rows)} in all"]}
        result = run("--limit", "2", "--no-headers", **options)
        assert len(result.stdout.splitlines()) == 2
        assert result.stderr == "2 in all\n"


class TestExitCodes:
    @pytest.mark.parametrize(
        ("output", "printed"), [("table", ""), ("json", "[]\n"), ("csv", ",".join(COLUMNS) + "\n")]
    )
    def test_nothing_found_is_exit_1_and_a_note(self, output: str, printed: str):
        result = run("-o", output, rows=[])
        assert (result.exit_code, result.stdout, result.stderr) == (1, printed, "No nodes found.\n")

    def test_an_unknown_column_is_exit_2_and_names_the_nearest(self):
        result = run("--sort", "stat")
        assert result.exit_code == 2
        assert 'no column "stat"; did you mean "state"?' in result.stderr

    def test_a_failure_prints_nothing(self):
        def rows() -> Iterable[dict[str, Any]]:
            raise CommandError("no answer")
            yield {}

        for output in ("table", "json", "csv"):
            result = run("-o", output, rows=rows())
            assert (result.exit_code, result.stdout) == (1, "")


class TestOrder:
    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("node", ["n1", "n2", "n10"]),
            ("-node", ["n10", "n2", "n1"]),
            ("gpus", ["n10", "n1", "n2"]),
            ("-gpus", ["n1", "n10", "n2"]),
        ],
    )
    def test_rows_are_sorted_in_natural_order_and_unknown_last(self, key: str, expected: list[str]):
        assert nodes(run("-o", "json", "--sort", key)) == expected

    def test_the_limit_counts_after_sorting(self):
        assert nodes(run("-o", "json", "--sort", "node", "--limit", "1")) == ["n1"]
        assert run("--limit", "0").exit_code == 2

    @given(st.lists(st.none() | st.text() | st.integers() | st.booleans() | st.floats() | st.lists(st.text())))
    def test_any_values_can_be_sorted(self, values: list[object]):
        rows = [{"key": value} for value in values]
        shuffled = random.Random(0).sample(rows, len(rows))
        assert len(list(sorted_rows(shuffled, Sort("key", descending=False)))) == len(rows)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (300, "5m"),
        (7200, "120m"),
        (86400, "24h"),
        (864000, "10d"),
        (94608000, "3y"),
        (-300, "in 5m"),
        (-0.5, "0s"),
    ],
)
def test_ages_are_short(seconds: float, text: str):
    assert age("2026-11-26T12:00:00.000Z", 1795694400.0 + seconds) == text


@pytest.mark.parametrize("value", [None, "", "soon", 7])
def test_an_invalid_time_is_left_unchanged(value: object):
    assert age(value, 0.0) == value


class TestWatching:
    @pytest.fixture
    def looks(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        """Stop watching with Ctrl-C after this many refreshes, without waiting between them."""

        def after(count: int) -> None:
            left = [count]

            def sleep(_seconds: float) -> None:
                left[0] -= 1
                if left[0] <= 0:
                    raise KeyboardInterrupt

            monkeypatch.setattr("collector.cli.watching.time.sleep", sleep)

        return after

    def watch(self, *args: str, answers: list[Any]) -> Result:
        upcoming = iter(answers)

        @click.command()
        @output_options(LAYOUT, watch=True)
        def command(output: Output) -> None:
            def ask() -> list[dict[str, Any]]:
                answer = next(upcoming)
                if isinstance(answer, Exception):
                    raise answer
                return answer

            show_rows(LAYOUT, ask, output, nothing="No nodes found.")

        return CliRunner().invoke(command, ["--watch", *args])

    def test_without_a_terminal_new_and_changed_rows_are_appended(self, looks: Callable[[int], None]):
        looks(4)
        n10, n2, n1 = ROWS
        result = self.watch(answers=[[n10], [n10, n2], [n10, n2], [n10 | {"state": "found"}, n2, n1]])
        assert (result.exit_code, result.stderr) == (0, "")
        assert [line.split() for line in result.stdout.splitlines()] == [
            *(["NODE", "STATE"], ["n10", "lost"], ["n2", "found"], ["n10", "found"], ["n1", "=1+1"])
        ]

    def test_json_is_appended_as_lines(self, looks: Callable[[int], None]):
        looks(2)
        result = self.watch("-o", "json", answers=[ROWS[:2], ROWS])
        assert list(map(json.loads, result.stdout.splitlines())) == ROWS

    def test_a_failure_is_reported_once_and_retried(self, looks: Callable[[int], None]):
        looks(4)
        gone = CommandError("no answer")
        result = self.watch(answers=[ROWS[:1], gone, gone, ROWS[:2]])
        assert result.stderr == "gpuid: no answer\n"
        assert result.stdout.endswith("n2    found\n")

    def test_the_first_request_must_succeed(self):
        result = self.watch(answers=[CommandError("no answer")])
        assert (result.exit_code, result.stdout) == (1, "")

    def test_a_wrong_interval_says_how_to_write_it(self):
        result = run("--watch", "n1")
        assert result.exit_code == 2
        assert "put --watch after the arguments, or write --watch=5s" in result.stderr
        assert run("--watch=1ms").exit_code == 2
