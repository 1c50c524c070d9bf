"""gpuid knows the truth after whatever happened, in each of its setups: a short run of `python -m tests.faults`.

The seed is another one each time and printed; GPUID_FAULTS_SEED repeats one, GPUID_FAULTS_MINUTES makes runs longer.
"""

import os
import random
from pathlib import Path

import pytest

from tests.faults.run import CALM_SECONDS, run
from tests.faults.world import START_SECONDS, Setup

SECONDS = float(os.environ.get("GPUID_FAULTS_MINUTES", "0.1")) * 60  # of each setup, and then to the next calm
SEED = int(os.environ.get("GPUID_FAULTS_SEED", random.SystemRandom().randrange(1 << 32)))


@pytest.mark.timeout(SECONDS + 2 * START_SECONDS + 2 * CALM_SECONDS)
@pytest.mark.parametrize("setup", Setup)
def test_the_truth_is_known_after_every_calm(setup: Setup, tmp_path: Path) -> None:
    print(f"{setup}: GPUID_FAULTS_SEED={SEED}")  # noqa: T201  a failure can be repeated by it
    try:
        outcome = run(setup, SEED, tmp_path, seconds=SECONDS, report=print)
    finally:
        if (plan := tmp_path / "plan.jsonl").exists():
            print(plan.read_text())  # noqa: T201  the folder may be gone when this is read
    assert not outcome.mismatches, f"GPUID_FAULTS_SEED={SEED}: {outcome}"
    assert outcome.calms >= 1
