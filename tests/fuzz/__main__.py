"""Fuzzes decoders for as long as one likes: `python -m tests.fuzz [TARGET…] --seconds N`.

With atheris (`pip install atheris`; it needs a compiler where there is no wheel) the search is guided by coverage, each
target in a process of its own; without it, hypothesis makes the inputs from random bytes. It prints how many inputs
there were and, for each error that the target does not document, its type and place and the first input; exit code 1
if there was any.
"""

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings

MAX_INPUT_BYTES = 4096
COVERED = ("collector",)  # packages whose coverage guides atheris


class Findings:
    """What was tried, and which errors came that no decoder documents."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs = 0
        self.errors: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def run(self, decode: Callable[[Any], None], value: Any) -> None:
        """Decode one input and note the outcome."""
        self.inputs += 1
        try:
            decode(value)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/collector/" in frame.filename]
            where = f"{ours[-1].filename.rpartition('/collector/')[2]}:{ours[-1].lineno}" if ours else str(place)
            kind = f"{type(error).__name__} at {where}"
            self.errors[kind] += 1
            self._first.setdefault(kind, f"{error!s:.200} <- {value!r:.300}")

    def report(self) -> None:
        """Print it."""
        print(f"{self.name:15} {self.inputs:9,} inputs, {self.errors.total()} undocumented errors", flush=True)  # noqa: T201
        for kind, count in self.errors.most_common():
            print(f"    {count:6,} x {kind}: {self._first[kind]}", flush=True)  # noqa: T201


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (default: 60)")
    parser.add_argument("--plain", action="store_true", help="without atheris, though it is installed")
    options = parser.parse_args()
    guided = not options.plain and importlib.util.find_spec("atheris") is not None
    if guided and len(options.targets) != 1:
        from tests.fuzz.targets import TARGETS

        command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(options.seconds)]
        names = options.targets or TARGETS
        return max(subprocess.run([*command, name], check=False).returncode for name in names)
    if guided:
        return _guided(options.targets[0], options.seconds)
    return _plain(options.targets, options.seconds)


def _plain(names: list[str], seconds: float) -> int:
    from tests.fuzz.targets import TARGETS

    failed = False
    for name in names or TARGETS:
        target, findings = TARGETS[name], Findings(name)
        feed = _by_strategy(target, findings)
        rng = random.Random(name)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            feed(rng.randbytes(rng.randrange(8, 1024)))
        findings.report()
        failed |= bool(findings.errors)
    return int(failed)


def _by_strategy(target: Any, findings: Findings) -> Callable[[bytes], object]:
    """Return what takes random bytes and decodes the input that the target's strategy makes of them."""

    @settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def run(value: Any) -> None:
        findings.run(target.run, value)

    feed: Callable[[bytes], object] = run.hypothesis.fuzz_one_input
    return feed


def _guided(name: str, seconds: float) -> int:
    import atheris

    with atheris.instrument_imports(include=list(COVERED)):
        from tests.fuzz.targets import TARGETS
    target, findings = TARGETS[name], Findings(name)
    by_strategy = _by_strategy(target, findings)

    def test(data: bytes) -> None:
        # Half of the inputs are what coverage finds, and half of them what the strategy makes of the same bytes.
        if target.from_bytes is not None and (not data or data[0] % 2):
            findings.run(target.run, target.from_bytes(data[1:]))
        else:
            by_strategy(data[1:])
        if time.monotonic() > deadline:
            findings.report()
            os._exit(int(bool(findings.errors)))  # libFuzzer never returns

    deadline = time.monotonic() + seconds
    flags = [f"-max_len={MAX_INPUT_BYTES}", "-verbosity=0", f"-max_total_time={int(seconds) + 60}"]
    atheris.Setup([sys.argv[0], *flags], test)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
