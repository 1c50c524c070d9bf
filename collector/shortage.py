"""Reports a shortage of memory or threads in one line, where Python would print a traceback."""

import contextlib
import errno
import mmap
import os
import resource
import sys
import threading

__all__ = ["SHORTAGE_EXIT_CODE", "check_threads", "end_if_short", "install_hooks", "why_short"]

SHORTAGE_EXIT_CODE = 1
START_THREADS = 5  # needed at start: four for the event loop and one for files
START_BYTES = 16 << 20  # more than a thread needs to start: a stack of usual size, and what Python allocates in it
RESERVE_BYTES = 4 << 20  # kept to print a line with

# Texts of errors without their own type: of the runtime, the dynamic loader and libraries.
_NO_THREAD = "can't start new thread"
_NO_MEMORY = ("cannot allocate memory", "failed to map segment", "malloc failure", "without exception set")
_UNTYPED = (ImportError, OSError, SystemError)


_reserve = [bytes(RESERVE_BYTES)]


def check_threads() -> None:
    """Start and end as many threads as a start needs, to test the limits; raises RuntimeError or OSError if that fails.

    The event loop's library, libuv, silently aborts the process if it cannot start its threads. Python waits forever
    for a thread that runs out of memory before it has started, so each must find enough.
    """
    done = threading.Event()
    threads: list[threading.Thread] = []
    try:
        for _ in range(START_THREADS):
            mmap.mmap(-1, START_BYTES).close()
            threads.append(threading.Thread(target=done.wait, daemon=True))
            threads[-1].start()
    finally:
        done.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


def why_short(error: BaseException | None) -> str | None:
    """Return in one line the shortage behind an error and what to do; None if it had another cause."""
    for one in _causes(error):
        if isinstance(one, RuntimeError) and _NO_THREAD in str(one):
            return (
                f"no more threads can be started{_limits()}; raise the limit on processes (ulimit -u, LimitNPROC, "
                "pids.max) or of memory"
            )
        if (
            isinstance(one, MemoryError)
            or (isinstance(one, OSError) and one.errno == errno.ENOMEM)
            or (isinstance(one, _UNTYPED) and any(words in str(one).lower() for words in _NO_MEMORY))
        ):
            return f"out of memory{_limits()}; raise the limit (ulimit -v, LimitAS, or the container's memory)"
    return None


def install_hooks() -> None:
    """Print one line instead of a traceback for such errors that Python drops, in a thread or finalizer.

    The process ends if a thread could not start: the thread that waits for it would wait forever.
    """
    of_threads, of_finalizers = threading.excepthook, sys.unraisablehook
    bootstrap = threading.Thread._bootstrap  # type: ignore[attr-defined]  # noqa: SLF001

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if not _printed(args.exc_value):
            of_threads(args)

    def in_finalizer(args: "sys.UnraisableHookArgs") -> None:
        if not _printed(args.exc_value):
            of_finalizers(args)
        elif (args.err_msg or "").startswith("Exception ignored in thread started by"):  # before `start` had a frame
            os._exit(SHORTAGE_EXIT_CODE)

    def start(thread: threading.Thread) -> None:
        try:
            bootstrap(thread)
        except BaseException as error:
            end_if_short(error)
            raise

    threading.excepthook, sys.unraisablehook = in_thread, in_finalizer
    threading.Thread._bootstrap = start  # type: ignore[attr-defined]  # noqa: SLF001


def end_if_short(error: BaseException) -> None:
    """Print the shortage behind an error and exit at once: the rest may raise it again. Other errors do nothing."""
    if _printed(error):
        os._exit(SHORTAGE_EXIT_CODE)


def _printed(error: BaseException | None) -> bool:
    try:
        why = why_short(error)
    except MemoryError:
        _reserve.clear()
        why = "out of memory"
    if why is None:
        return False
    _reserve.clear()
    try:
        line = f"gpuid: {why}\n".encode()
    except MemoryError:
        line = b"gpuid: out of memory\n"
    with contextlib.suppress(OSError):  # nobody reads it; the process must end all the same
        os.write(2, line)
    return True


def _causes(error: BaseException | None) -> list[BaseException]:
    """Yield an error, the members of a group, and their causes and contexts."""
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or one in found:
            continue
        found.append(one)
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return found


def _limits() -> str:
    """Return the limits of this process that may be the cause, in parentheses."""
    known = []
    for name, number in (("address space", resource.RLIMIT_AS), ("data", resource.RLIMIT_DATA)):
        soft = resource.getrlimit(number)[0]
        if soft != resource.RLIM_INFINITY:
            known.append(f"{name} {soft >> 20} MiB")
    return f" (limits: {', '.join(known)})" if known else ""
