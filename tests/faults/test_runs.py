"""Runs of the faults: what they draw, what they leave behind when they end early, and what becomes of a failure."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults import __main__ as command
from tests.faults import run as runs
from tests.faults.plan import KINDS, Step, kinds_of, load
from tests.faults.run import Outcome, run
from tests.faults.world import Member, Setup
from tests.support.postgres import postgres_running
from tests.support.waiting import until

MOVES = [Step("move", {"node": node}) for node in ("n1", "n2")]


@pytest.fixture
def default_signals() -> Iterator[None]:
    """The handlers of this process, as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def started_by(monkeypatch: pytest.MonkeyPatch, folder: Path, replaced: Any, *options: str) -> None:
    """Run the command with another `run`."""
    monkeypatch.setattr(command, "run", replaced)
    monkeypatch.setattr(sys, "argv", ["faults", "--setup", "sqlite", "--seed", "7", "--folder", str(folder), *options])
    command.main()


class TestTheCommand:
    @pytest.mark.usefixtures("default_signals")
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_takes_down_what_the_run_has_started(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
    ) -> None:
        taken_down: list[str] = []

        def interrupted(*_: Any, **__: Any) -> Outcome:
            with contextlib.ExitStack() as stack:
                stack.callback(taken_down.append, "postgres")
                assert signal.getsignal(number) is not signal.SIG_DFL
                signal.raise_signal(number)
            raise AssertionError

        with pytest.raises(SystemExit) as ended:
            started_by(monkeypatch, tmp_path, interrupted)
        assert (ended.value.code, taken_down) == (128 + number, ["postgres"])

    @pytest.mark.usefixtures("default_signals")
    @pytest.mark.parametrize(
        ("failures", "said"),
        [
            (["history: a lie"], "it did not fail again"),
            (["history: a lie", "one: API: a lie"], "it did not fail again"),  # but something else was wrong
            (["history: a lie", "history: another"], "shortened: "),
            (["one: API: a lie", "two: API: a lie"], "shortened: "),
        ],
    )
    def test_a_plan_is_shortened_only_if_it_fails_again(
        self,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        failures: list[str],
        said: str,
    ) -> None:
        left = iter(failures)

        def fails(setup: Setup, seed: int, *_: Any, steps: list[Step] = MOVES, **__: Any) -> Outcome:
            return Outcome(setup, seed, steps, mismatches=[one for one in [next(left, "")] if one])

        with pytest.raises(SystemExit) as ended:
            started_by(monkeypatch, tmp_path, fails)
        assert ended.value.code == 1
        assert capsys.readouterr().out.splitlines()[-1].startswith(said)
        assert load(tmp_path / "sqlite-7.jsonl") == ("sqlite", 7, MOVES)
        assert (tmp_path / "sqlite-7-short.jsonl").exists() is said.startswith("shortened")


class FakeWorld(SimpleNamespace):
    """Something that a run happens to, where every step ends in an error."""

    def perform(self, step: Step) -> bool:
        raise self.error


class TestARun:
    @pytest.mark.parametrize(
        "error", [AssertionError("it has ended"), subprocess.CalledProcessError(1, "pg_ctl"), ProcessLookupError(3)]
    )
    def test_any_error_is_a_mismatch(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
        world = contextlib.nullcontext(FakeWorld(error=error, done=[MOVES[1]]))
        monkeypatch.setattr(runs, "new_world", lambda *_: world)
        outcome = run(Setup.SQLITE, 7, tmp_path, steps=MOVES)
        (mismatch,) = outcome.mismatches
        assert str(error) in mismatch
        assert load(tmp_path / "plan.jsonl") == ("sqlite", 7, MOVES[:1])
        head, done, never, *_ = str(outcome).splitlines()
        assert "1 steps and 0 calms" in head
        assert done == "  done: move 1"
        assert "restart, " in never
        assert "move" not in never.split(", ")

    def test_the_plan_is_there_if_the_run_is_broken_off(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        world = contextlib.nullcontext(FakeWorld(error=KeyboardInterrupt(), done=[]))
        monkeypatch.setattr(runs, "new_world", lambda *_: world)
        with pytest.raises(KeyboardInterrupt):
            run(Setup.SQLITE, 7, tmp_path, steps=MOVES)
        assert load(tmp_path / "plan.jsonl") == ("sqlite", 7, MOVES[:1])

    def test_even_seeds_let_each_process_run(self) -> None:
        odd, even = ({kind.name for kind in kinds_of(seed)} for seed in (17, 18))
        assert odd - even == {"restart", "away"}


def test_a_run_that_ends_while_postgres_is_stopped_says_what_was_wrong() -> None:
    def lying() -> None:
        with postgres_running() as server:
            server.stop()
            raise AssertionError("a lie")

    with pytest.raises(AssertionError, match="a lie"):
        lying()


class TestAProcessThatHasEnded:
    @pytest.fixture
    def world(self, tmp_path: Path) -> Any:
        return SimpleNamespace(processes=[Member(tmp_path, "one", None)])

    @pytest.mark.parametrize("again", [KINDS["restart"].do, KINDS["away"].undo])
    def test_by_itself_is_not_started_again_unseen(self, world: Any, again: Any) -> None:
        with pytest.raises(AssertionError, match="one has ended by itself"):
            again(world, {"process": "one", "how": "SIGTERM", "seconds": 0.0})

    def test_with_another_status_was_not_ended_as_it_should(self, world: Any) -> None:
        (process,) = world.processes
        process.command = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(process.port)]
        process.start()
        until(process.listens)
        with pytest.raises(AssertionError, match="SIGTERM ended one with status -15"):
            KINDS["restart"].do(world, {"process": "one", "how": "SIGTERM", "seconds": 0.0})
