"""What is said of one GPU's condition, and since when."""

import pytest

from collector.health import GROWTH_WINDOW_SECONDS, Condition, Degradation, Health, Level
from collector.model import FieldChange, Gpu
from collector.views.condition import (
    ADVICE,
    REASON_WORDS,
    HealthChange,
    Turn,
    health_after,
    judge,
    lost_after,
    stages,
    turn,
)

PENDING, FAILURE, LOST = Degradation.ROW_REMAP_PENDING, Degradation.ROW_REMAP_FAILURE, Degradation.LOST
GROWING = Degradation.UNCORRECTABLE_ECC_GROWING


def gpu(**health: int | bool | str) -> Gpu:
    return Gpu(uuid="GPU-1", health=Health(**health))  # type: ignore[arg-type]


def change(time: float, **fields: tuple[object, object]) -> HealthChange:
    return HealthChange(time, tuple(FieldChange(field, *values) for field, values in fields.items()))  # type: ignore[arg-type]


class TestWords:
    def test_every_reason_has_words_and_a_sentence_of_nvidias(self) -> None:
        assert set(REASON_WORDS) == set(ADVICE) == set(Degradation)
        assert all("NVIDIA" in text and text.endswith(".") for text in ADVICE.values())

    @pytest.mark.parametrize(
        ("condition", "words"),
        [
            (Condition(Health(row_remap_failure=True)), "Needs replacement"),
            (Condition(Health(row_remap_pending=True)), "Needs a reset or drain"),
            (Condition(None, lost=True), "Needs a reset or drain"),
            (Condition(Health(row_remap_pending=False)), "Healthy"),
            (Condition(None), "Health unknown"),
        ],
    )
    def test_a_verdict_is_clear(self, condition: Condition, words: str) -> None:
        assert judge(condition).words == words


class TestStages:
    def test_a_reason_holds_since_the_change_that_began_it(self) -> None:
        past = stages(
            [
                change(10.0, row_remap_pending=(False, True)),
                change(20.0, row_remap_pending=(True, False)),
                change(30.0, row_remap_pending=(False, True)),
                change(40.0, row_remap_failure=(False, True)),
            ],
            gpu(row_remap_pending=True, row_remap_failure=True),
            until=50.0,
        )
        assert [(one.since, one.reasons) for one in past] == [
            (None, ()),
            (10.0, (PENDING,)),
            (20.0, ()),
            (30.0, (PENDING,)),
            (40.0, (FAILURE, PENDING)),
        ]
        verdict = judge(Condition(Health(row_remap_pending=True, row_remap_failure=True)), past)
        assert [(one.reason, one.since) for one in verdict.reasons] == [(FAILURE, 40.0), (PENDING, 30.0)]

    def test_what_is_older_than_all_changes_has_no_beginning(self) -> None:
        past = stages([change(10.0, ecc_dram_correctable=(1, 2))], gpu(row_remap_failure=True), until=50.0)
        assert judge(Condition(Health(row_remap_failure=True)), past).reasons[0].since is None

    def test_a_driver_that_says_less_ends_no_reason(self) -> None:
        past = stages(
            [
                change(10.0, row_remap_failure=(False, True)),
                change(20.0, row_remap_failure=(True, None)),
                change(30.0, row_remap_failure=(None, True)),
            ],
            gpu(row_remap_failure=True),
            until=50.0,
        )
        assert judge(Condition(Health(row_remap_failure=True)), past).reasons[0].since == 10.0

    def test_a_growth_is_a_reason_for_a_week(self) -> None:
        past = stages([change(10.0, ecc_dram_uncorrectable=(1, 2))], gpu(), until=10.0 + GROWTH_WINDOW_SECONDS)
        assert [(one.since, one.reasons) for one in past] == [
            (None, ()),
            (10.0, (GROWING,)),
            (10.0 + GROWTH_WINDOW_SECONDS, ()),
        ]

    def test_growth_that_goes_on_is_one_stage(self) -> None:
        half = GROWTH_WINDOW_SECONDS / 2
        grown = [change(half * step, ecc_dram_uncorrectable=(step, step + 1)) for step in range(1, 5)]
        assert [one.since for one in stages(grown, gpu(), until=half * 4.5)] == [None, half]

    def test_a_loss_begins_and_ends(self) -> None:
        lost = [change(10.0, lost=(False, True)), change(20.0, lost=(True, False))]
        assert [(one.since, one.reasons) for one in stages(lost, gpu(), until=30.0)] == [
            (None, ()),
            (10.0, (LOST,)),
            (20.0, ()),
        ]
        assert lost_after(lost[:1])
        assert not lost_after(lost)


class TestTurn:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"row_remap_pending": (False, True)}, Turn((PENDING,), (), Level.RESET)),
            ({"row_remap_pending": (True, False)}, Turn((), (PENDING,))),
            ({"row_remap_pending": (True, None)}, Turn()),
            ({"row_remap_failure": (None, True)}, Turn((FAILURE,), (), Level.REPLACE)),
            ({"ecc_dram_uncorrectable": (1, 5)}, Turn((GROWING,), (), Level.RESET)),
            ({"ecc_dram_uncorrectable": (5, 1)}, Turn()),
            ({"ecc_dram_correctable": (1, 5)}, Turn()),
            ({"lost": (False, True)}, Turn((LOST,), (), Level.RESET)),
            (
                {"recovery_action": ("Reset", "None"), "row_remap_failure": (False, True)},
                Turn((FAILURE,), (Degradation.RECOVERY_ACTION,), Level.REPLACE),
            ),
        ],
    )
    def test_a_change_begins_and_ends_reasons(self, changes: dict[str, tuple[object, object]], expected: Turn) -> None:
        assert turn(change(1.0, **changes).changes) == expected


def test_changes_alone_tell_what_is_known_of_an_absent_card() -> None:
    told = [
        change(1.0, row_remap_failure=(False, True)),
        change(2.0, row_remap_failure=(True, None), inforom=("1", "2")),
    ]
    assert health_after(told) == Health(row_remap_failure=True, inforom="2")
    assert health_after([change(1.0, lost=(False, True))]) is None
