"""What is derived about a GPU's health, losses and departures if changes were lost."""

from collections.abc import Mapping
from typing import Any

import pytest

from collector.health import Health
from collector.model import (
    Change,
    Event,
    Failing,
    FieldChange,
    Gpu,
    NodeInfo,
    NodeState,
    Place,
    ReadFailure,
    Unseen,
)
from collector.store.plan import Away, Departure, OpenPlacement, Recorded, differences

A, B, C = (Place("prod", name) for name in "abc")
NOW = 100.0
FINE, WORN = Health(row_remap_pending=False), Health(row_remap_pending=True)
PENDING = FieldChange("row_remap_pending", False, True)
LOST, FOUND = FieldChange("lost", False, True), FieldChange("lost", True, False)
FAILING = Failing(reason=ReadFailure.TIMEOUT, since=5.0)


def gpu(health: Health | None = None, **facts: Any) -> Gpu:
    return Gpu(uuid="GPU-1", serial="s", model="m", chassis="c", health=health, **facts)


def node(place: Place, *gpus: Gpu, since: float = 1.0, **facts: Any) -> NodeState:
    return NodeState(
        **{
            "place": place,
            "node": NodeInfo(name=place.node),
            "time": 9.0,
            "gpus": gpus,
            "since": (since,) * len(gpus),
            **facts,
        }
    )


def placed(place: Place = A, since: float = 1.0, **facts: Any) -> OpenPlacement:
    return OpenPlacement("GPU-1", "s", "c", "m", (), place, since, since, **facts)


def found(
    here: list[OpenPlacement],
    *nodes: NodeState | Place,
    latest: Mapping[str, float] = {},
    gone: Mapping[str, Departure] = {},
    **recorded: Any,
) -> list[Change]:
    """Return the differences; a place is a node that is gone."""
    states = {one if isinstance(one, Place) else one.place: None if isinstance(one, Place) else one for one in nodes}
    elsewhere = recorded.pop("elsewhere", set())
    return differences(Recorded(here, elsewhere, dict(latest), **recorded), states, NOW, gone)


class TestAGpuThatStays:
    def test_its_health_changed_with_the_last_reading(self):
        (change,) = found([placed(gpu=gpu(FINE))], node(A, gpu(WORN)))
        assert (change.event, change.time, change.changes) == (Event.HEALTH, 9.0, (PENDING,))

    def test_without_other_data_its_health_is_unchanged(self):
        assert found([placed()], node(A, gpu(WORN))) == []

    @pytest.mark.parametrize(
        ("unseen", "facts", "time"),
        [
            # It was noticed then,
            (Unseen("GPU-1", 3.0, lost=True, lost_since=7.0), {}, 7.0),
            # by the last reading, which found all others,
            (Unseen("GPU-1", 3.0, lost=True), {}, 9.0),
            # or without a reading: the last one still found it,
            (Unseen("GPU-1", 9.0, lost=True), {}, NOW),
            # or there was none.
            (Unseen("GPU-1", 3.0, lost=True), {"time": None}, NOW),
        ],
    )
    def test_its_loss_is_recorded_when_it_was_noticed(self, unseen: Unseen, facts: dict[str, Any], time: float):
        state = node(A, gpu(), unseen=(Unseen("GPU-0", 2.0, lost=True, lost_since=4.0), unseen), **facts)
        (change,) = found([placed(lost=False)], state)
        assert (change.event, change.time, change.changes) == (Event.HEALTH, time, (LOST,))

    def test_a_loss_is_not_recorded_before_the_latest_change(self):
        state = node(A, gpu(), unseen=(Unseen("GPU-1", 3.0, lost=True, lost_since=7.0),))
        assert [one.time for one in found([placed(lost=False)], state, latest={"GPU-1": 8.0})] == [8.0]
        assert [one.time for one in found([placed(lost=False, since=7.5)], state)] == [7.5]

    @pytest.mark.parametrize(("failing", "time"), [(None, 9.0), (FAILING, NOW)])
    def test_it_was_found_again_by_a_reading_or_else_now(self, failing: Failing | None, time: float):
        """A node that cannot be read has it back because its slices list it again."""
        (change,) = found([placed(lost=True)], node(A, gpu(), failing=failing))
        assert (change.time, change.changes) == (time, (FOUND,))

    def test_a_wear_of_a_lost_gpu_is_found_by_the_reading(self):
        state = node(A, gpu(WORN), unseen=(Unseen("GPU-1", 3.0, lost=True, lost_since=7.0),))
        (change,) = found([placed(gpu=gpu(FINE), lost=True)], state)
        assert (change.time, change.changes) == (9.0, (PENDING,))


class TestAGpuThatWasAway:
    def test_it_left_as_it_was_recorded(self):
        vanished, appeared, health = found([placed(gpu=gpu(FINE, module="3"))], node(A, gpu(WORN), since=7.0))
        assert (vanished.event, vanished.gpu.health, vanished.gpu.module) == (Event.VANISHED, FINE, "3")
        assert appeared.event is Event.APPEARED
        assert (health.event, health.time, health.changes) == (Event.HEALTH, 7.0, (PENDING,))

    def test_or_else_as_it_is(self):
        vanished, appeared = found([placed()], node(A, gpu(WORN, module="3"), since=7.0))
        assert (vanished.gpu.health, vanished.gpu.module) == (WORN, "3")
        assert appeared.event is Event.APPEARED


class TestAGpuThatArrived:
    def test_its_health_is_compared_with_that_of_its_departure(self):
        _, health = found([], node(B, gpu(WORN), since=7.0), away={"GPU-1": Away(gpu(FINE), lost=True)})
        assert (health.time, health.changes) == (7.0, (FOUND, PENDING))

    def test_in_conflict_it_is_not_compared(self):
        away = {"GPU-1": Away(gpu(FINE), lost=True)}
        _, health = found([], node(B, gpu(WORN), since=7.0), away=away, elsewhere={"GPU-1"})
        assert health.changes == (FieldChange("row_remap_pending", None, True),)


class TestAGpuThatLeft:
    LEFT = Departure(A, 50.0, 41.0, gpu(WORN), lost=True)

    def test_without_other_data_it_was_not_lost(self):
        (vanished,) = found([placed()], A)
        assert not vanished.lost

    def test_its_last_place_has_its_last_health(self):
        """Whatever the order in which the history returns them."""
        before = [placed(A, gpu=gpu(FINE)), placed(B, gpu=gpu(FINE))]
        for here in (before, before[::-1]):
            changes = found(here, A, B, gone={"GPU-1": self.LEFT})
            assert [(one.event, one.place, one.time, one.lost) for one in changes] == [
                (Event.HEALTH, A, 41.0, False),
                (Event.VANISHED, B, 50.0, False),
                (Event.VANISHED, A, 50.0, True),
            ]

    def test_an_unknown_last_place_is_the_last_one_of_the_history(self):
        left = self.LEFT._replace(place=C)
        changes = found([placed(A, gpu=gpu(FINE)), placed(B, gpu=gpu(FINE))], A, B, gone={"GPU-1": left})
        assert [(one.event, one.place) for one in changes] == [
            (Event.HEALTH, B),
            (Event.VANISHED, A),
            (Event.VANISHED, B),
        ]

    def test_a_gpu_that_stays_in_another_place_left_as_it_was(self):
        here = [placed(A, gpu=gpu(FINE)), placed(B)]
        (vanished,) = found(here, A, node(B, gpu()), gone={"GPU-1": self.LEFT._replace(place=C)})
        assert (vanished.event, vanished.place, vanished.gpu.health, vanished.lost) == (Event.VANISHED, A, FINE, False)

    def test_its_health_changed_no_earlier_than_it_was_placed_or_changed(self):
        left = self.LEFT._replace(confirmed=0.25, time=0.5)
        changes = found([placed(A, since=0.1, gpu=gpu(FINE))], A, gone={"GPU-1": left})
        assert [one.time for one in changes] == [0.25, 0.5]
        changes = found([placed(A, since=0.1, gpu=gpu(FINE))], A, gone={"GPU-1": left}, latest={"GPU-1": 0.4})
        assert [one.time for one in changes] == [0.4, 0.5]
