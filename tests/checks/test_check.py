"""Checks run concurrently, with a deadline, and never stop one another."""

from collections.abc import Awaitable, Callable

import anyio
import pytest

from collector.checks.check import Check, run_checks
from collector.checks.finding import Finding, Problem, Subject
from collector.model import GpuidError

pytestmark = pytest.mark.anyio


class Scripted(Check):
    """A check that does what a test wants."""

    def __init__(
        self, name: str, run: Callable[[], Awaitable[None]], *, step: str = "", timeout_hint: str = ""
    ) -> None:
        super().__init__(Finding(subject=Subject.SINK, name=name))
        self.step = step
        self.timeout_hint = timeout_hint
        self._run = run

    async def run(self) -> None:
        await self._run()

    def hint(self, error: GpuidError) -> str:
        return "log in" if "unauthorized" in str(error) else ""


async def fine() -> None:
    pass


async def fail(error: Exception) -> None:
    raise error


async def test_findings_come_in_the_order_of_the_checks():
    async def slow() -> None:
        await anyio.sleep(0.05)

    findings = await run_checks([Scripted("slow", slow), Scripted("fast", fine)], 10)
    assert [(finding.name, finding.ok) for finding in findings] == [("slow", True), ("fast", True)]


async def test_no_checks_have_no_findings():
    assert await run_checks([], 10) == []


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (GpuidError("10.0.0.1: unauthorized"), Problem("10.0.0.1: unauthorized", "log in")),
        (GpuidError("10.0.0.1: unreachable"), Problem("10.0.0.1: unreachable")),
        (KeyError("x"), Problem("unexpected error while listing its nodes: 'x'", "please report this")),
        (
            ExceptionGroup("tasks", [ValueError("odd\nvalue")]),
            Problem("unexpected error while listing its nodes: odd value", "please report this"),
        ),
    ],
)
async def test_an_error_is_a_problem_and_other_checks_continue(error: Exception, problem: Problem):
    bad, good = await run_checks(
        [Scripted("bad", lambda: fail(error), step="listing its nodes"), Scripted("good", fine)], 10
    )
    assert (bad.problems, good.ok) == ([problem], True)


@pytest.mark.parametrize(
    ("step", "text"),
    [("reaching it", "no answer within 0.05 s while reaching it"), ("", "no answer within 0.05 s")],
)
async def test_a_timeout_names_the_step_and_a_remedy(step: str, text: str):
    check = Scripted("mute", anyio.sleep_forever, step=step, timeout_hint="raise --timeout")
    (finding,) = await run_checks([check], 0.05)
    assert finding.problems == [Problem(text, "raise --timeout")]


async def test_waiting_for_a_turn_does_not_count_against_the_timeout():
    running = peak = 0

    async def work() -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await anyio.sleep(0.2)
        running -= 1

    findings = await run_checks([Scripted(str(n), work) for n in range(4)], 0.5, concurrency=1)
    assert (peak, all(finding.ok for finding in findings)) == (1, True)
