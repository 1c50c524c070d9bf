"""Wait for a condition by polling it, up to a limit that only a fault reaches."""

import inspect
import linecache
import time
from collections.abc import Callable

import anyio

__all__ = ["LIMIT_SECONDS", "eventually", "until"]

LIMIT_SECONDS = 60.0  # many times what anything takes, so that a busy machine is no failure
POLL_SECONDS = 0.01  # in this process
REQUEST_SECONDS = 0.05  # between questions to another one, which cost more

_TRUTH = object()  # stands for any answer that counts as true


def until(
    answer: Callable[[], object],
    expected: object = _TRUTH,
    *,
    seconds: float = LIMIT_SECONDS,
) -> None:
    """Call `answer` until it returns what is expected, or anything true; AssertionError with the last answer if not.

    It blocks: an async test uses `eventually`.
    """
    deadline = time.monotonic() + seconds
    while not _is_right(last := answer(), expected):
        if time.monotonic() > deadline:
            raise AssertionError(_complaint(answer, last, expected, seconds))
        time.sleep(REQUEST_SECONDS)


async def eventually(
    answer: Callable[[], object],
    expected: object = _TRUTH,
    *,
    seconds: float = LIMIT_SECONDS,
) -> None:
    """Do what `until` does while other tasks run; `answer` may be a coroutine function."""
    last: object = None
    with anyio.move_on_after(seconds):
        while True:
            given = answer()
            last = await given if inspect.isawaitable(given) else given
            if _is_right(last, expected):
                return
            await anyio.sleep(POLL_SECONDS)
    raise AssertionError(_complaint(answer, last, expected, seconds))


def _is_right(last: object, expected: object) -> bool:
    return bool(last) if expected is _TRUTH else last == expected


def _complaint(answer: Callable[[], object], last: object, expected: object, seconds: float) -> str:
    wanted = "" if expected is _TRUTH else f", not {expected!r}"
    return f"after {seconds:g} s the answer is still {last!r}{wanted}: {_source(answer)}"


def _source(answer: Callable[[], object]) -> str:
    """Return where a condition is written, and a lambda's own words."""
    code = getattr(answer, "__code__", None) or getattr(getattr(answer, "__func__", None), "__code__", None)
    if code is None:
        return repr(answer)
    if code.co_name != "<lambda>":
        return f"{code.co_qualname}()"
    line = linecache.getline(code.co_filename, code.co_firstlineno).strip()
    return f"{line} (line {code.co_firstlineno} of {code.co_filename})"
