"""What is said of one GPU's condition, and since when."""

import pytest

from collector.health import GROWTH_WINDOW_SECONDS, Condition, Degradation, Health, Level, degradations
from collector.model import Event, FieldChange, Gpu, Place
from collector.views.condition import (
    ADVICE,
    REASON_WORDS,
    HealthChange,
    Past,
    Stage,
    Turn,
    condition_after,
    judge,
    retrace,
    turn,
    turn_of,
)
from collector.views.recent_changes import ChangeGroup

PENDING, FAILURE, LOST = Degradation.ROW_REMAP_PENDING, Degradation.ROW_REMAP_FAILURE, Degradation.LOST
GROWING = Degradation.UNCORRECTABLE_ECC_GROWING


def gpu(**health: int | bool | str) -> Gpu:
    return Gpu(uuid="GPU-1", health=Health(**health))  # type: ignore[arg-type]


def change(time: float, place: Place | None = None, /, **fields: tuple[object, object]) -> HealthChange:
    return HealthChange(time, tuple(FieldChange(field, *values) for field, values in fields.items()), place)  # type: ignore[arg-type]


def stages(changes: list[HealthChange], one: Gpu, *, until: float, lost: bool = False) -> list[Stage]:
    """How a GPU was up to what it reported last, which is how it is now."""
    growth = condition_after(changes).ecc_growth
    return list(retrace(changes, one, Condition(one.health, lost, growth, until)).stages)


class TestWords:
    def test_every_reason_has_a_description_and_nvidias_sentence(self) -> None:
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
        verdict = judge(Condition(Health(row_remap_pending=True, row_remap_failure=True)), Past(past))
        assert [(one.reason, one.since) for one in verdict.reasons] == [(FAILURE, 40.0), (PENDING, 30.0)]

    def test_a_reason_older_than_all_changes_has_no_start(self) -> None:
        past = stages([change(10.0, ecc_dram_correctable=(1, 2))], gpu(row_remap_failure=True), until=50.0)
        assert judge(Condition(Health(row_remap_failure=True)), Past(past)).reasons[0].since is None

    def test_a_reason_at_first_sight_may_be_older(self) -> None:
        now = Condition(Health(row_remap_failure=True, row_remap_pending=True), read=50.0)
        changes = [change(10.0, row_remap_failure=(None, True)), change(20.0, row_remap_pending=(False, True))]
        reasons = judge(now, retrace(changes, gpu(row_remap_failure=True, row_remap_pending=True), now)).reasons
        assert [(one.reason, one.since, one.or_earlier) for one in reasons] == [
            (FAILURE, 10.0, True),
            (PENDING, 20.0, False),
        ]

    def test_a_driver_that_reports_less_ends_no_reason(self) -> None:
        past = stages(
            [change(10.0, row_remap_failure=(False, True)), change(20.0, ecc_dram_correctable=(1, 3))],
            gpu(row_remap_failure=True),  # as last known
            until=50.0,
        )
        assert judge(Condition(Health(row_remap_failure=True)), Past(past)).reasons[0].since == 10.0

    def test_a_growth_is_a_reason_for_a_week(self) -> None:
        past = stages(
            [change(10.0, ecc_dram_uncorrectable=(1, 2))],
            gpu(ecc_dram_uncorrectable=2),
            until=10.0 + GROWTH_WINDOW_SECONDS,
        )
        assert [(one.since, one.reasons) for one in past] == [
            (None, ()),
            (10.0, (GROWING,)),
            (10.0 + GROWTH_WINDOW_SECONDS, ()),
        ]

    def test_continued_growth_is_one_stage(self) -> None:
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
        assert condition_after(lost[:1]).lost
        assert not condition_after(lost).lost

    def test_a_repair_becomes_a_replacement(self) -> None:
        changes = [
            change(10.0, channel_repair_pending=(None, True)),
            change(20.0, unrepairable_memory=(False, True)),
        ]
        one = gpu(channel_repair_pending=True, unrepairable_memory=True)
        past = retrace(changes, one, Condition(one.health, read=30.0))
        assert [(stage.since, stage.level) for stage in past.stages] == [
            (None, None),
            (10.0, Level.RESET),
            (20.0, Level.REPLACE),
        ]
        assert past.turns[changes[1]] == Turn((Degradation.REPAIR_PENDING,), (), (), Level.REPLACE)


A, B = Place("a", "node"), Place("b", "node")


class TestAcrossClusters:
    """What is known there may not be known here, and the last stage says what the verdict says."""

    def test_forgotten_health_is_not_a_reason(self) -> None:
        changes = [
            change(10.0, A, tpc_repair_pending=(None, True)),
            change(20.0, B, tpc_repair_pending=(True, None)),
        ]
        past = retrace(changes, gpu(tpc_repair_pending=False), Condition(Health(tpc_repair_pending=False), read=50.0))
        assert [(one.since, one.level) for one in past.stages] == [(None, None), (10.0, Level.RESET), (20.0, None)]
        assert past.turns[changes[1]].unsaid == (Degradation.REPAIR_PENDING,)
        assert past.unsaid == []

    @pytest.mark.parametrize(
        ("health", "unsaid"),
        [
            (Health(ecc_dram_correctable=1), [FAILURE]),
            (None, [FAILURE]),
            (Health(row_remap_failure=False), []),
            (Health(row_remap_failure=True), []),
        ],
    )
    def test_permanent_faults_are_remembered_until_contradicted(
        self, health: Health | None, unsaid: list[Degradation]
    ) -> None:
        changes = [
            change(10.0, A, row_remap_failure=(False, True), row_remap_pending=(False, True)),
            change(20.0, B, row_remap_failure=(True, None), row_remap_pending=(True, None)),
        ]
        assert retrace(changes, gpu(), Condition(health, read=50.0)).unsaid == unsaid

    @pytest.mark.parametrize(
        ("there", "reasons"),
        [({}, (GROWING,)), ({"ecc_dram_uncorrectable": (4, 9)}, (GROWING,)), ({"ecc_dram_uncorrectable": (4, 0)}, ())],
    )
    def test_growth_moves_along_if_counters_confirm_it(
        self, there: dict[str, tuple[object, object]], reasons: tuple[Degradation, ...]
    ) -> None:
        grown = change(10.0, A, ecc_dram_uncorrectable=(0, 4))
        came = change(20.0, B, **{"ecc_dram_correctable": (0, 1)} | there)
        now = condition_after([grown, came])
        past = retrace([grown, came], gpu(), now._replace(read=50.0), arrivals={1.0, 20.0})
        assert past.stages[-1].reasons == reasons
        assert past.turns[came].began == ()

    def test_more_errors_than_in_another_cluster_are_not_growth(self) -> None:
        changes = [
            change(10.0, A, ecc_dram_correctable=(0, 4)),
            change(20.0, B, ecc_dram_uncorrectable=(0, 4)),
        ]
        assert [one.reasons for one in retrace(changes, gpu(), Condition(None, read=20.0), arrivals={20.0}).stages] == [
            ()
        ]

    def test_more_errors_in_the_same_cluster_are_growth(self) -> None:
        changes = [
            change(10.0, A, ecc_dram_correctable=(0, 4)),
            change(20.0, B, ecc_dram_uncorrectable=(0, 4)),
        ]
        now = Condition(Health(ecc_dram_uncorrectable=4), ecc_growth=20.0, read=30.0)
        assert [one.since for one in retrace(changes, gpu(), now, arrivals={15.0}).stages] == [None, 20.0]

    @pytest.mark.parametrize(
        ("now", "since"),
        [
            (Condition(Health(row_remap_failure=False), read=50.0), 50.0),
            (Condition(Health(row_remap_failure=True), ecc_growth=40.0, read=50.0), 40.0),
            (Condition(Health(unrepairable_memory=True), read=50.0), 50.0),
        ],
    )
    def test_the_last_stage_always_equals_the_verdict(self, now: Condition, since: float) -> None:
        whole = retrace([change(10.0, row_remap_failure=(False, True))], gpu(), now)
        past = whole.stages
        assert (past[-1].since, past[-1].reasons) == (since, degradations(now))
        assert past[-1].level == judge(now, whole).level


class TestTurn:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"row_remap_pending": (False, True)}, Turn((PENDING,), (), (), Level.RESET)),
            ({"row_remap_pending": (True, False)}, Turn((), (PENDING,))),
            ({"row_remap_pending": (True, None)}, Turn((), (), (PENDING,))),
            (
                {"reset_required": (True, None), "recovery_action": (None, "None")},
                Turn((), (Degradation.RECOVERY_ACTION,)),
            ),
            ({"row_remap_failure": (None, True)}, Turn((FAILURE,), (), (), Level.REPLACE)),
            ({"ecc_dram_uncorrectable": (1, 5)}, Turn((GROWING,), (), (), Level.RESET)),
            ({"ecc_dram_uncorrectable": (5, 1)}, Turn()),
            ({"ecc_dram_correctable": (1, 5)}, Turn()),
            ({"lost": (False, True)}, Turn((LOST,), (), (), Level.RESET)),
            (
                {"recovery_action": ("Reset", "None"), "row_remap_failure": (False, True)},
                Turn((FAILURE,), (Degradation.RECOVERY_ACTION,), (), Level.REPLACE),
            ),
        ],
    )
    def test_a_change_begins_and_ends_reasons(self, changes: dict[str, tuple[object, object]], expected: Turn) -> None:
        assert turn(change(1.0, **changes).changes) == expected

    @pytest.mark.parametrize(
        ("changes", "health", "expected"),
        [
            (
                {"retired_pages_double_bit": (10, 13)},
                Health(retired_pages_single_bit=50, retired_pages_double_bit=13),
                Turn((Degradation.PAGE_RETIREMENT_LIMIT,), (), (), Level.REPLACE),
            ),
            (
                {"fabric_status": ("Success", "Timeout")},
                Health(fabric_state="Completed", fabric_status="Timeout"),
                Turn((Degradation.FABRIC,), (), (), Level.RESET),
            ),
            (
                {"unrepairable_memory": (False, True)},
                Health(channel_repair_pending=True, unrepairable_memory=True),
                Turn((Degradation.REPAIR_PENDING,), (), (), Level.REPLACE),
            ),
            ({"channel_repair_pending": (True, False)}, Health(tpc_repair_pending=True), Turn()),
        ],
    )
    def test_the_rest_of_its_health_counts(
        self, changes: dict[str, tuple[object, object]], health: Health, expected: Turn
    ) -> None:
        group = ChangeGroup(
            id=1,
            event=Event.HEALTH,
            time=1.0,
            place=Place("a", "b"),
            previous=None,
            gpus=(Gpu(uuid="GPU-1", health=health),),
            altered=(change(1.0, **changes).changes,),
        )
        assert turn_of(group) == expected


def test_the_condition_of_an_absent_card_follows_from_changes() -> None:
    told = [
        change(1.0, row_remap_failure=(False, True), ecc_dram_uncorrectable=(0, 1)),
        change(2.0, row_remap_failure=(True, None), inforom=("1", "2")),
    ]
    assert condition_after(told) == Condition(Health(ecc_dram_uncorrectable=1, inforom="2"), False, 1.0, 2.0)
    assert condition_after([change(1.0, lost=(False, True))]) == Condition(None, True, None, 1.0)
