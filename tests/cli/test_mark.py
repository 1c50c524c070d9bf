"""`gpuid mark`, `unmark` and `marks` on a store, whether a collector runs or not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from collector.cli import gpuid as command
from collector.store import Store, StoreSettings
from tests.support.http import served


@pytest.fixture
def gpuid() -> Any:
    """Run `gpuid` in this process."""

    def run(*args: object, **options: Any) -> Any:
        done = CliRunner().invoke(command, [*map(str, args)], **options)
        return SimpleNamespace(returncode=done.exit_code, stdout=done.stdout, stderr=done.stderr)

    return run


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
    assert done.stderr == "gpuid: S1: never seen; the mark applies when it appears\n"
    (row,) = json.loads(gpuid("marks", "--json", "-c", config).stdout)
    assert (row["serial"], row["kind"], row["note"], row["ticket"], row["set_by"]) == (
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
    assert row["removed_at"] is not None


def test_a_file_marks_many_unless_a_line_is_bad(gpuid: Any, config: Path, tmp_path: Path) -> None:
    file = tmp_path / "serials.txt"
    file.write_text("# to be replaced\nS1\n\nS2  # board\na b\n" + "x" * 200 + "\n")
    bad = gpuid("mark", "-f", file, "--as", "rma", "-c", config)
    assert bad.returncode == 2
    assert [line.partition(": expected")[0] for line in bad.stderr.splitlines()] == [
        f"gpuid: {file}:{n}" for n in (5, 6)
    ]
    done = gpuid("mark", "-f", "-", "--as", "quarantine", "--until", "7d", "-c", config, input="S1\nS2\n")
    lines = [line.partition(" until ")[0] for line in done.stdout.splitlines()]
    assert lines == ["S1: marked quarantine", "S2: marked quarantine"]
    assert len(json.loads(gpuid("marks", "--json", "-c", config).stdout)) == 2


def test_the_author_of_a_replaced_mark_is_named(gpuid: Any, config: Path) -> None:
    gpuid("mark", "S1", "--as", "rma", "--ticket", "OPS-1", "--by", "ann", "-c", config)
    done = gpuid("mark", "S1", "--as", "watch", "--by", "bob", "-c", config)
    assert done.stdout == "S1: marked watch, no longer rma (set by ann, ticket OPS-1)\n"


def test_the_prefix_of_a_uuid_is_optional(gpuid: Any, config: Path) -> None:
    bare = "474AAACC-7b47-d376-efff-a258fbcc8ff4"
    assert gpuid("mark", bare, "--as", "rma", "-c", config).returncode == 0
    (row,) = json.loads(gpuid("marks", "--json", "-c", config).stdout)
    assert (row["uuid"], row["serial"]) == (f"GPU-{bare.lower()}", None)


def test_a_long_note_is_cut_only_in_the_table(gpuid: Any, config: Path) -> None:
    gpuid("mark", "S1", "--as", "rma", "--note", "long " * 50, "-c", config)
    assert max(map(len, gpuid("marks", "-c", config).stdout.splitlines())) < 160
    (row,) = json.loads(gpuid("marks", "--json", "-c", config).stdout)
    assert len(row["note"]) == 250


def test_until_is_printed_with_its_time_zone(gpuid: Any, config: Path) -> None:
    done = gpuid("mark", "S1", "--as", "watch", "--until", "2099-01-01 10:00", "-c", config)
    assert done.stdout == "S1: marked watch until 2099-01-01T10:00:00.000Z\n"


def test_a_bad_id_among_others_is_named(gpuid: Any, config: Path) -> None:
    done = gpuid("mark", "1", "4 5", "--as", "rma", "-c", config)
    assert (done.returncode, done.stderr.partition(": expected")[0]) == (2, 'gpuid: "4 5"')


class TestThroughACollector:
    def mark(self, gpuid: Any, status: int, body: dict[str, Any], *arguments: str) -> tuple[Any, int]:
        asked = []

        def answer(headers: Any, sent: bytes) -> tuple[int, bytes]:
            asked.append(sent)
            return status, json.dumps(body).encode()

        with served(answer, "application/json") as address:
            return gpuid(*arguments, "S1", "S2", "--url", f"http://{address}"), len(asked)

    def test_the_output_is_the_same_as_with_a_store(self, gpuid: Any) -> None:
        mark, former = {"kind": "watch"}, {"kind": "rma", "set_by": "ann", "ticket": "OPS-1"}
        done, _ = self.mark(gpuid, 200, {"mark": mark, "former": former}, "mark", "--as", "watch")
        assert done.stdout.splitlines()[0] == "S1: marked watch, no longer rma (set by ann, ticket OPS-1)"
        done, _ = self.mark(gpuid, 200, {"mark": mark, "still": {"kind": "rma", "serial": "S1"}}, "unmark")
        line = "S1: no longer marked watch; still marked rma by its serial S1"
        assert done.stdout.splitlines()[0] == line

    @pytest.mark.parametrize("status", [400, 404, 409])
    def test_a_refused_gpu_does_not_stop_the_others(self, gpuid: Any, status: int) -> None:
        done, asked = self.mark(gpuid, status, {"detail": "not this one"}, "mark", "--as", "rma")
        assert (done.returncode, asked, done.stderr.count("not this one")) == (1, 2, 2)

    @pytest.mark.parametrize("status", [401, 403, 500, 503])
    def test_a_collector_that_refuses_all_is_asked_once(self, gpuid: Any, status: int) -> None:
        done, asked = self.mark(gpuid, status, {"detail": "no"}, "mark", "--as", "rma")
        assert (done.returncode, asked, done.stderr.count("\n")) == (2, 1, 1)


@pytest.mark.parametrize("name", ["GPU-", "..", f"MIG-{'0' * 8}-0000-0000-0000-{'0' * 12}"])
def test_an_invalid_gpu_id_is_refused(gpuid: Any, config: Path, name: str) -> None:
    done = gpuid("mark", name, "--as", "rma", "-c", config)
    assert (done.returncode, done.stderr) == (2, f'gpuid: "{name}": expected a GPU\'s serial or UUID\n')


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
