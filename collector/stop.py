"""Stops the process: in order on the first signal, at once on the second, and in any case by the deadline.

This is imported before anything else, so it imports nothing that takes time.
"""

import _thread
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from collector.end_deadline import END_SECONDS, Stage

__all__ = ["ProcessStop", "process_stop"]

_IMPATIENT_SECONDS = 0.5  # for the report of what could not be kept after a second signal, and for idle threads to end
_SIGTERM_EXIT_CODE = 128 + signal.SIGTERM


class ProcessStop:
    """What SIGINT, SIGTERM and SIGHUP do to a process that serves until it is stopped.

    Before anybody listens there is nothing to lose, and the first two end it with exit code 0. To a listener the first
    one is passed on. From then on, and from `begin` on, threads keep the deadline: they alone can end a process whose
    event loop or other threads hang, in a file system for example.
    """

    def __init__(self, *, end: Callable[[int], object] = os._exit, seconds: float = END_SECONDS) -> None:
        self.received: signal.Signals | None = None  # the first signal to stop
        self.since = 0.0  # seconds of time.monotonic when the end began
        self.is_complete = True  # whether a process that is stopped now has done what it was started for
        self.report: Callable[[], None] = _nothing  # says what could not be kept; called once, perhaps from a thread
        self._end = end
        self._seconds = seconds
        self._installed = False
        self._serving = False  # somebody has listened
        self._ending = False
        self._hung_up = False  # a SIGHUP waits for a listener
        self._on_stop: Callable[[], object] = _nothing
        self._on_hangup: Callable[[], object] | None = None
        self._reporting = _thread.allocate_lock()
        self._reported = False

    def install(self, *, hangup: bool) -> None:
        """Handle SIGINT and SIGTERM from here on, with `hangup` SIGHUP too."""
        self._installed = True
        signal.signal(signal.SIGINT, self._handle_stop)
        signal.signal(signal.SIGTERM, self._handle_stop)
        if hangup:
            signal.signal(signal.SIGHUP, self._handle_hangup)

    @staticmethod
    def end_on_sigterm() -> None:
        """End on SIGTERM as any other process does: to the first one of a container it does nothing by itself."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_SIGTERM_EXIT_CODE))

    def listen(self, on_stop: Callable[[], object], on_hangup: Callable[[], object] | None = None) -> None:
        """Have these called on a signal, within its handler; those that came before are not lost."""
        if not self._installed:  # for want of an entry point of ours
            self.install(hangup=on_hangup is not None)
        self._on_stop, self._on_hangup, self._serving = on_stop, on_hangup, True
        if self.received is not None:
            on_stop()
        if self._hung_up and on_hangup is not None:
            self._hung_up = False
            on_hangup()

    def ignore(self) -> None:
        """Call nobody any more; signals still count."""
        self._on_stop, self._on_hangup = _nothing, None

    def begin(self) -> None:
        """Begin the end, which from here on has its deadline; later calls do nothing."""
        if self._ending:
            return
        self._ending, self.since = True, time.monotonic()
        self._end_after(self._seconds * Stage.REPORT.value / END_SECONDS, self._seconds)

    def report_once(self) -> None:
        """Say what could not be kept, unless that has been said."""
        if self._reporting.acquire(blocking=False):
            self.report()
            self._reported = True

    def leave(self) -> None:
        """End a process whose work is done, after a signal or if threads that hang would hold it up; else return.

        Python's own end takes seconds where much was loaded, and none of these threads keeps the deadline during it.
        """
        import threading  # every program that has threads has it

        own, until = threading.current_thread(), time.monotonic() + _IMPATIENT_SECONDS
        hanging = False
        for thread in threading.enumerate():
            if thread is not own and not thread.daemon:
                thread.join(max(0.0, until - time.monotonic()))
                hanging = hanging or thread.is_alive()
        if hanging or self.received is not None:
            _flush()
            self._end(self._exit_code if self.received is not None else 0)

    @property
    def _exit_code(self) -> int:
        if self.received is None:
            return 1  # an error, which nobody has been able to report, ends it
        return 0 if self.is_complete else 128 + self.received

    def _handle_stop(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            self._end_after(0.0, _IMPATIENT_SECONDS)
            return
        self.received = signal.Signals(number)
        if not self._serving:
            self._end(self._exit_code)
        self.begin()
        self._on_stop()

    def _handle_hangup(self, _number: int, _frame: FrameType | None) -> None:
        if self._on_hangup is not None:
            self._on_hangup()
        else:
            self._hung_up = True

    def _end_after(self, report: float, seconds: float) -> None:
        """End the process in some seconds at the latest, and report before that.

        In threads of their own, because whatever the report needs may be held by what hangs. They are started without
        the locks of `threading`, because a signal may have interrupted their owner.
        """
        try:
            _thread.start_new_thread(self._sleep_and_end, (seconds,))
            _thread.start_new_thread(self._report_and_end, (report,))
        except RuntimeError:  # no more threads: then the main one, as soon as it runs
            signal.signal(signal.SIGALRM, lambda *_: self._report_and_end(0.0))
            signal.setitimer(signal.ITIMER_REAL, max(report, 0.01))

    def _report_and_end(self, seconds: float) -> None:
        time.sleep(seconds)
        self.report_once()
        until = time.monotonic() + _IMPATIENT_SECONDS
        while not self._reported and time.monotonic() < until:  # by the main thread, at the same time
            time.sleep(0.01)
        _flush()
        self._end(self._exit_code)

    def _sleep_and_end(self, seconds: float) -> None:
        time.sleep(seconds)
        self._end(self._exit_code)


def _nothing() -> None:
    pass


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or there is none
            stream.flush()


process_stop = ProcessStop()  # signals belong to the process, so there is one
