"""Run steps against gpuid until something is wrong: `python -m tests.faults --help`."""

import argparse
import logging
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.faults.minimise import minimised
from tests.faults.plan import CALM, Step, load, save
from tests.faults.run import Outcome, run
from tests.faults.world import Setup

MINIMISING_SECONDS = 1800.0
PROCESSES = {"one", "two", "zero"}  # that a mismatch may be of


def main() -> None:
    """Run what the command line says; the exit status is 1 if something was wrong."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _end)
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    seed = random.SystemRandom().randrange(1 << 32)
    parser.add_argument(
        "--seed",
        type=int,
        default=seed,
        help="draws the same steps again, though their timing differs; default: any; even ones start no process again",
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="of each setup")
    parser.add_argument("--setup", choices=[*Setup, "all"], default="all")
    parser.add_argument(
        "--steady", action="store_true", help="start no process again, add nothing, and compare after a few steps"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="do the steps of a file that a run wrote")
    parser.add_argument("--folder", type=Path, help="where logs, stores and scripts are kept; default: a new one")
    parser.add_argument("--whole", action="store_true", help="do not shorten the plan of a failure")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="gpuid-faults-"))
    failed = False
    if given.replay is not None:
        setup, seed, steps = load(given.replay)
        outcome = run(Setup(setup), seed, folder / "replay", steps=steps)
        print(outcome)
        sys.exit(bool(outcome.mismatches))
    for setup in Setup if given.setup == "all" else [Setup(given.setup)]:
        outcome = run(setup, given.seed, folder / setup, seconds=given.minutes * 60, steady=given.steady)
        print(outcome, flush=True)
        if outcome.mismatches:
            failed = True
            script = folder / f"{setup}-{given.seed}.jsonl"
            save(script, setup, given.seed, outcome.steps)
            print(f"the plan: {script}", flush=True)
            if not given.whole:
                shorter = _shorten(outcome, folder)
                print("it did not fail again" if shorter is None else f"shortened: {shorter}", flush=True)
    sys.exit(failed)


def _end(number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does: stop PostgreSQL and unmount the disk."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def kind(mismatch: str) -> str:
    """Return what a mismatch is about: the text before its first colon, without the name of a process."""
    first, *others = mismatch.split(": ")
    return others[0] if first in PROCESSES and others else first


def _shorten(outcome: Outcome, folder: Path) -> Path | None:
    """Write the part of a plan that still fails; None if the whole plan does not."""
    deadline = time.monotonic() + MINIMISING_SECONDS
    path = folder / f"{outcome.setup}-{outcome.seed}-short.jsonl"
    number = 0

    def fails(steps: list[Step]) -> bool:
        nonlocal number
        if time.monotonic() > deadline:
            return False
        number += 1
        again = run(outcome.setup, outcome.seed, folder / f"shorter-{number}", steps=steps)
        if kinds.isdisjoint(map(kind, again.mismatches)):
            return False
        save(path, outcome.setup, outcome.seed, steps)  # at once: it may be ended before the next one
        return True

    kinds = set(map(kind, outcome.mismatches))
    steps = outcome.steps[:-1] if outcome.steps and outcome.steps[-1].kind == CALM else outcome.steps
    if not fails(steps):
        return None
    minimised(steps, fails)
    return path


if __name__ == "__main__":
    main()
