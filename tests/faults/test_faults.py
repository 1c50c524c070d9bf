"""gpuid knows the truth after whatever happened, in each of its setups: a short run of `python -m tests.faults`.

The seed is another one each time and printed; GPUID_FAULTS_SEED repeats one, GPUID_FAULTS_MINUTES makes runs longer. If
they last minutes, there is another one with SQLite, which is steady: what it uses is compared from calm to calm.
"""

import os
import random
from pathlib import Path

import pytest

from tests.faults.run import CALM_SECONDS, COUNTED, run
from tests.faults.world import START_SECONDS, Setup

SECONDS = float(os.environ.get("GPUID_FAULTS_MINUTES", "0.1")) * 60  # of each setup, and then to the next calm
SEED = int(os.environ.get("GPUID_FAULTS_SEED", random.SystemRandom().randrange(1 << 32)))
STEADY_SECONDS = 120  # from which on a run has enough calms to show growth


@pytest.mark.timeout(SECONDS + 2 * START_SECONDS + 3 * CALM_SECONDS)
@pytest.mark.parametrize(
    ("setup", "steady"),
    [*((setup, False) for setup in Setup), *[(Setup.SQLITE, True)] * (SECONDS >= STEADY_SECONDS)],
)
def test_the_truth_is_known_after_every_calm(setup: Setup, steady: bool, tmp_path: Path) -> None:
    print(f"{setup}: GPUID_FAULTS_SEED={SEED}")  # noqa: T201  a failure can be repeated by it
    try:
        outcome = run(setup, SEED, tmp_path, seconds=SECONDS, steady=steady, report=print)
    finally:
        if (plan := tmp_path / "plan.jsonl").exists():
            print(plan.read_text())  # noqa: T201  the folder may be gone when this is read
    assert not outcome.mismatches, f"GPUID_FAULTS_SEED={SEED}: {outcome}"
    assert outcome.calms >= 1
    assert not steady or outcome.compared_growth >= COUNTED, f"no growth could have been seen: {outcome}"
