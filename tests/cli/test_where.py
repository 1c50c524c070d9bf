"""`gpuid where`."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid
from collector.store import StoreSettings

Serving = Callable[..., AbstractContextManager[str]]


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


def test_a_store_that_is_not_there_is_one_line_and_exit_code_2(tmp_path: Path):
    config = tmp_path / "gpuid.toml"
    config.write_text(
        f'[[clusters]]\ncontext = "prod"\n[store]\nurl = "sqlite://{tmp_path}/none.db"\n', encoding="utf-8"
    )
    result = where("100", "--config", config)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert "there is no such file" in result.stderr


def test_no_collector_at_the_url_is_exit_code_1():
    result = where("100", "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize("asked", ["store", "collector"])
def test_a_history_of_many_pages_is_whole(
    asked: str, history_config: Path, serving: Serving, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("collector.cli.past._PAGE", 1)
    with serving(store=StoreSettings(url=f"sqlite://{history_config.parent}/gpuid.db")) as url:
        options = ("--config", history_config) if asked == "store" else ("--url", url)
        assert [row["node"] for row in json.loads(where("100", "--json", *options).stdout)] == ["n2", "n1"]
        for command, column, expected in (
            (("diff", "--since", "2h"), "event", ["appeared", "moved"]),
            (("history", "n1"), "node", ["n1"]),
        ):
            result = CliRunner().invoke(gpuid, [*command, "--json", *map(str, options)])
            assert [row[column] for row in json.loads(result.stdout)] == expected
