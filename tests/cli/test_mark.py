"""`gpuid mark`, `unmark` and `marks` on a store, whether a collector runs or not."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from collector.store import Store, StoreSettings


@pytest.fixture
def config(tmp_path: Path) -> Path:
    async def create() -> None:
        async with Store.open(StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")):
            pass

    anyio.run(create)
    path = tmp_path / "gpuid.toml"
    path.write_text(f'[[clusters]]\ncontext = "prod"\n[store]\nurl = "sqlite://{tmp_path}/gpuid.db"\n')
    return path


def test_a_mark_is_set_listed_and_removed(gpuid: Any, config: Path) -> None:
    done = gpuid("mark", "S1", "--as", "rma", "--note", "row remap", "--ticket", "OPS-1", "--by", "ann", "-c", config)
    assert (done.returncode, done.stdout) == (0, "S1: marked rma\n")
    assert done.stderr == "gpuid: S1: never seen; the mark takes effect when it appears\n"
    (row,) = json.loads(gpuid("marks", "--json", "-c", config).stdout)
    assert (row["serial"], row["as"], row["note"], row["ticket"], row["by"]) == (
        "S1",
        "rma",
        "row remap",
        "OPS-1",
        "ann",
    )
    assert gpuid("unmark", "S1", "-c", config).stdout == "S1: no longer marked rma\n"
    again = gpuid("unmark", "S1", "-c", config)
    assert (again.returncode, again.stderr) == (1, "gpuid: S1: not marked\n")
    (row,) = json.loads(gpuid("marks", "--all", "--json", "-c", config).stdout)
    assert row["removed"] is not None


def test_many_come_from_a_file_and_a_bad_line_marks_none(gpuid: Any, config: Path, tmp_path: Path) -> None:
    file = tmp_path / "serials.txt"
    file.write_text("# to be replaced\nS1\n\nS2  # board\na b\n" + "x" * 200 + "\n")
    bad = gpuid("mark", "-f", file, "--as", "rma", "-c", config)
    assert bad.returncode == 2
    assert [line.partition(": expected")[0] for line in bad.stderr.splitlines()] == [
        f"gpuid: {file}:{n}" for n in (5, 6)
    ]
    done = gpuid("mark", "-f", "-", "--as", "quarantine", "--until", "7d", "-c", config, input="S1\nS2\n")
    assert done.stdout == "S1: marked quarantine\nS2: marked quarantine\n"
    assert len(json.loads(gpuid("marks", "--json", "-c", config).stdout)) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--until", "2001-01-01"), "--until: expected a time in the future"),
        (("--until", "soon"), "--until: expected a duration"),
        (("--ticket", "javascript:x"), "--ticket: expected an http or https URL"),
        (("--note", "a\nb"), "--note: expected one line"),
    ],
)
def test_bad_input_is_one_line(gpuid: Any, config: Path, arguments: tuple[str, ...], problem: str) -> None:
    done = gpuid("mark", "S1", "--as", "rma", *arguments, "-c", config)
    assert done.returncode == 2
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_store_there_are_no_marks(gpuid: Any, tmp_path: Path) -> None:
    path = tmp_path / "gpuid.toml"
    path.write_text('[[clusters]]\ncontext = "prod"\n')
    done = gpuid("mark", "S1", "--as", "rma", "-c", path)
    assert (done.returncode, done.stderr) == (
        2,
        f"gpuid: {path}: store: expected a [store] table, which holds the marks\n",
    )
