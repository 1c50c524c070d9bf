"""Runs of the faults: what they draw, what they leave behind when they end early, and what becomes of a failure."""

import contextlib
import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.faults import __main__ as command
from tests.faults import plan as plans
from tests.faults import run as runs
from tests.faults.plan import CALM, KINDS, Kind, Step, kinds_of, load
from tests.faults.run import COUNTED, Outcome, run
from tests.faults.world import CLUSTERS, Member, Setup
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


class CountingWorld(SimpleNamespace):
    """Something in which every step is done, and calms are counted."""

    def __init__(self) -> None:
        self.done: list[Step] = []
        self.calms = 0

    def perform(self, step: Step) -> bool:
        self.done.append(step)
        return True

    def calm(self) -> None:
        self.calms += 1


class TestASteadyRun:
    @pytest.fixture
    def leaking(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], CountingWorld]:
        """What a run happens to, whose process opens some descriptors more from calm to calm."""

        def start(more: float) -> CountingWorld:
            world = CountingWorld()
            process = SimpleNamespace(name="one", starts=1, tasks=dict, get=lambda *_, **__: None)
            vars(world).update(processes=[process], collected=CLUSTERS, sinks={}, settle=lambda: None, rereads=True)
            monkeypatch.setattr(runs, "new_world", lambda *_: contextlib.nullcontext(world))
            monkeypatch.setattr(runs, "PAUSES", (0.0,))
            monkeypatch.setattr(plans, "drawn", lambda *_, steady, to_show: itertools.cycle([MOVES[0], Step(CALM)]))
            for name in ("_now", "_past"):
                monkeypatch.setattr(runs.Checker, name, lambda *_: [])
            values = {"threads": (9.0, 6.0), "tasks": (9.0, 20.0)}
            monkeypatch.setattr(runs, "used", lambda _: values | {"descriptors": (40.0 + more * world.calms, 12.0)})
            return world

        return start

    def test_lasts_until_growth_could_be_seen(self, leaking: Any, tmp_path: Path) -> None:
        world = leaking(0.0)
        outcome = run(Setup.SQLITE, 17, tmp_path, steady=True)
        assert (outcome.mismatches, outcome.compared_growth, world.calms) == ([], COUNTED, 8)
        assert "growth was compared of: descriptors, tasks, threads" in str(outcome)

    def test_finds_what_is_left_open(self, leaking: Any, tmp_path: Path) -> None:
        leaking(4.0)
        mismatch, *_ = run(Setup.SQLITE, 17, tmp_path, steady=True).mismatches
        assert mismatch.startswith("one: descriptors: grew")

    def test_does_not_wait_for_growth_for_ever(
        self, leaking: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = leaking(0.0)
        monkeypatch.setattr(runs, "CALM_SECONDS", 0.0)
        assert run(Setup.SQLITE, 17, tmp_path, steady=True).compared_growth == set()
        assert world.calms == 1

    def test_other_runs_end_in_time(self, leaking: Any, tmp_path: Path) -> None:
        world = leaking(0.0)
        assert run(Setup.SQLITE, 17, tmp_path).compared_growth == set()
        assert world.calms == 1

    @pytest.mark.parametrize("seed", [17, 18])
    def test_starts_no_process_again_and_adds_nothing(self, seed: int) -> None:
        steady, other = ({kind.name for kind in kinds_of(seed, steady=one)} for one in (True, False))
        assert other - steady == {"add_cluster", "add_sink"} | ({"restart", "away"} if seed == 17 else set())

    def test_comes_to_a_calm_after_a_few_steps(self) -> None:
        world: Any = SimpleNamespace()
        kind = Kind("nothing", 1, lambda *_: {}, lambda *_: None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plans, "kinds_of", lambda *_, **__: [kind])
            steps = list(itertools.islice(plans.drawn(17, world, steady=True), 100))
        between = [len(list(group)) for calm, group in itertools.groupby(steps, lambda step: step.kind == CALM)][::2]
        assert max(between) <= 4


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
