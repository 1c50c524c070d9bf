"""Runs checks: with a deadline, concurrently, and with every failure as a problem in the finding."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import anyio

from collector.checks.finding import Finding
from collector.kube.credential_plugin import PLUGIN_TIMEOUT_SECONDS
from collector.model import GpuidError
from collector.redaction import redact

__all__ = ["CONCURRENT_CLUSTERS", "Check", "plugin_timeout", "run_checks"]

CONCURRENT_CLUSTERS = 32  # each may start a credential plugin
MAX_ERROR_LENGTH = 300  # characters of an unexpected error
_PLUGIN_TIME_SHARE = 0.9  # share of a check's time, for a credential plugin


class Check(ABC):
    """The check of one subject; whatever it raises becomes a problem in `finding`."""

    def __init__(self, finding: Finding) -> None:
        self.finding = finding
        self.step = ""  # current step, for error messages: "listing its nodes"
        self.timeout_hint = ""  # what to do if the current step takes too long

    @abstractmethod
    async def run(self) -> None:
        """Check the subject; raises GpuidError for problems that end the check, and adds others itself."""

    def hint(self, error: GpuidError) -> str:  # noqa: ARG002
        """Return how to fix an error that `run` raised, or an empty string."""
        return ""


def plugin_timeout(timeout: float) -> float:
    """Return the timeout of a credential plugin: less than the check's, so that a hanging one can be reported."""
    return min(_PLUGIN_TIME_SHARE * timeout, PLUGIN_TIMEOUT_SECONDS)


async def run_checks(
    checks: Sequence[Check],
    timeout: float,
    *,
    concurrency: float = math.inf,
    on_done: Callable[[], None] = lambda: None,
) -> list[Finding]:
    """Run checks concurrently, each for at most `timeout` seconds, and return their findings in order.

    `on_done` is called after each.
    """
    limiter = anyio.CapacityLimiter(concurrency)

    async def run(check: Check) -> None:
        async with limiter:
            await _run_check(check, timeout)
        on_done()

    async with anyio.create_task_group() as tasks:
        for check in checks:
            tasks.start_soon(run, check, name=f"check {check.finding.name}")
    return [check.finding for check in checks]


async def _run_check(check: Check, timeout: float) -> None:
    try:
        with anyio.fail_after(timeout):
            await check.run()
    except TimeoutError:
        check.finding.add_problem(f"no answer within {timeout:g} s{_while(check)}", check.timeout_hint)
    except GpuidError as error:
        check.finding.add_problem(error, check.hint(error))
    except Exception as error:  # a failure never stops other checks
        check.finding.add_problem(
            f"unexpected error{_while(check)}: {redact(_first(error), MAX_ERROR_LENGTH)}", "please report this"
        )


def _first(error: BaseException) -> BaseException:
    """Return the first error that is not a group; a task group raises its errors in groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _while(check: Check) -> str:
    return f" while {check.step}" if check.step else ""
