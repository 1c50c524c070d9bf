"""Fuzzes decoders: `python -m tests.fuzz [TARGET…] --cases N --seed N`.

Each case is one or a few changes away from an input of the corpus, of the target's strategy, or of an earlier case that
reached code which none had reached before. It prints how many cases there were and how many in a second of processor
time, and for each error that the target does not document its type, its place and the first input; exit code 1 if there
was any. With `--keep`, the corpus is written: the smallest inputs that together reach all of the code that was reached.
"""

import argparse
import logging
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import HealthCheck, given, seed, settings

from tests.fuzz.kept_inputs import FIELD, Coverage, kept, smallest, write
from tests.fuzz.target import RESOURCES, Target
from tests.fuzz.targets import TARGETS

DRAWN = 300  # inputs of the strategy
LEARNING = 2000  # first cases whose coverage is measured; afterwards one of MEASURED is
MEASURED = 100
MAX_CASE_SECONDS = 2.0  # of processor time


class SlowCaseError(Exception):
    """An input took longer than any may."""


class Findings:
    """What was tried, and which errors came that no decoder documents."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases = 0
        self.errors: Counter[str] = Counter()
        self.first: dict[str, Any] = {}
        self._seconds = 0.0
        self._said: dict[str, str] = {}

    def run(self, decode: Callable[[Any], None], value: Any) -> None:
        """Decode one input and note the outcome."""
        self.cases += 1
        started = time.process_time()
        try:
            decode(value)
            if time.process_time() - started > MAX_CASE_SECONDS:
                raise SlowCaseError
        except Exception as error:
            self._note(error, value)
        self._seconds += time.process_time() - started

    def _note(self, error: Exception, value: Any) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if FIELD in frame.filename] or frames
        kind = f"{type(error).__name__} at {ours[-1].filename.rpartition(FIELD)[2]}:{ours[-1].lineno}"
        self.errors[kind] += 1
        if kind not in self.first or len(repr(value)) < len(repr(self.first[kind])):
            self.first[kind] = value
            self._said[kind] = f"{error!s:.200}"

    def report(self, population: int, lines: int) -> None:
        """Print it."""
        rate = self.cases / max(self._seconds, 1e-9)
        print(  # noqa: T201
            f"{self.name:22} {self.cases:10,} cases {rate:9,.0f}/s {population:6,} inputs {lines:6,} lines"
            f" {self.errors.total():6,} undocumented errors",
            flush=True,
        )
        for kind, count in self.errors.most_common():
            print(f"    {count:,} x {kind}: {self._said[kind]!r} <- {self.first[kind]!r:.400}", flush=True)  # noqa: T201


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--cases", type=int, default=10_000, help="of each target (default: 10,000)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of processor time, most for each target")
    parser.add_argument("--seed", type=int, help="default: random, and printed")
    parser.add_argument("--keep", action="store_true", help="write the corpus")
    options = parser.parse_args()
    number = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"--seed {number}", flush=True)  # noqa: T201
    logging.disable()
    total, failed = 0, False
    with RESOURCES:
        for name in options.targets or TARGETS:
            findings = fuzz(name, number, options.cases, options.seconds, keep=options.keep)
            total += findings.cases
            failed |= bool(findings.errors)
    print(f"{total:,} cases", flush=True)  # noqa: T201
    return int(failed)


def fuzz(name: str, number: int, cases: int, seconds: float, *, keep: bool) -> Findings:
    """Try cases on a target, print what was found, and return it."""
    from tests.fuzz.mutator import Mutator

    target, findings, coverage = TARGETS[name], Findings(name), Coverage()
    rng = random.Random(f"{name} {number}")
    mutator = Mutator([], rng)

    def measure(value: Any) -> None:
        if coverage.reaches_more(partial(findings.run, target.run, value)):
            mutator.population.append(value)

    for value in (*kept(name), *drawn(target, number)):
        findings.run(target.run, value)
        mutator.population.append(value)
    learning = min(LEARNING, cases // 4)
    deadline = time.process_time() + seconds
    while findings.cases < cases and time.process_time() < deadline:
        value = mutator.next()
        if findings.cases < learning or findings.cases % MEASURED == 0:
            measure(value)
        else:
            findings.run(target.run, value)
    findings.report(len(mutator.population), len(coverage))
    if keep:
        write(name, [*smallest([*kept(name), *mutator.population], partial(_quietly, target))])
    return findings


def drawn(target: Target[Any], number: int) -> list[Any]:
    """Return inputs of a target's strategy."""
    found: list[Any] = []

    @seed(number)
    @settings(max_examples=DRAWN, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def draw(value: Any) -> None:
        found.append(value)

    draw()
    return found


def _quietly(target: Target[Any], value: Any) -> None:
    try:
        target.run(value)
    except Exception:  # what was found is in the report
        return


if __name__ == "__main__":
    sys.exit(main())
