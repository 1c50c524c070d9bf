"""Mutation testing: `python -m tests.mutation MODULE… --seed N --sample N`.

Each mutant is a module with one small fault: another comparison, operator, number or result, or a statement left out.
Its own tests run with it, up to the first failure. Mutants that no test notices are printed: each is either a test that
is missing or a program that does the same. Exit code 1 if there are any.
"""

import argparse
import ast
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from tests.mutation.in_place import in_bodies, survivors
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.runs import Baseline, passes, preload
from tests.mutation.table import TESTS

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as collect/schedule; default: all")
    parser.add_argument("--seed", type=int, help="of the sample; default: random, and printed")
    parser.add_argument("--sample", type=int, help="mutants of each module; default: all")
    parser.add_argument("--lines", help="only those of FIRST-LAST, or of one line")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"--seed {seed}", flush=True)  # noqa: T201
    preload()
    found = [test(name, seed, options.sample, options.lines) for name in options.modules or TESTS]
    return int(any(found))


def test(name: str, seed: int, sample: int | None, lines: str | None) -> int:
    """Try the mutants of a module, print those that survive, and return how many do."""
    path, tests = ROOT / "collector" / f"{name}.py", TESTS[name]
    module = f"collector.{name.replace('/', '.')}"
    source = path.read_text()
    every = list(mutants(source))
    if lines:
        first, _, last = lines.partition("-")
        every = [one for one in every if int(first) <= one.line <= int(last or first)]
    chosen = every if sample is None or sample >= len(every) else random.Random(f"{name} {seed}").sample(every, sample)
    chosen = sorted(chosen, key=lambda mutant: mutant.line)
    bodies = in_bodies(source)
    alive = 0
    # A function that loses its call of super() has other variables, and its code cannot be changed in place.
    placed = [one for one in chosen if one.line in bodies and "super()" not in one.before]
    rest = [one for one in chosen if one not in placed]
    for one in chain(survivors(module, path, placed, tests), _imported(module, path, rest, tests)):
        alive += 1
        print(f"{name}.py:{one.line}\n  - {one.before}\n  + {one.after}", flush=True)  # noqa: T201
    killed = len(chosen) - alive
    share = 100 * killed / max(1, len(chosen))
    print(f"{name}: {killed} of {len(chosen)} killed ({share:.1f} %), of {len(every)} mutants", flush=True)  # noqa: T201
    return alive


def _imported(module: str, path: Path, mutants: list[Mutant], tests: Sequence[str]) -> Iterator[Mutant]:
    """Yield the mutants that no test notices among those that change what runs when the module is imported."""
    if not mutants:
        return
    good, cpu, elapsed = passes(module, str(path), ast.parse(path.read_text()), tests, None)
    if not good:
        raise RuntimeError(f"{module}: the tests fail without a fault")
    for one in mutants:
        if passes(module, str(path), one.tree, tests, Baseline(cpu, elapsed))[0]:
            yield one


if __name__ == "__main__":
    sys.exit(main())
