"""What is remembered of the changes that happened last."""

import anyio
import msgspec
import pytest

from collector.model import Change, Event, FieldChange, Gpu, LastReport, Place
from collector.store import HistoricChange
from collector.views.recent_changes import RecentChanges, as_change


def change(event: Event, uuid: str, node: str = "n1", *, time: float = 1.0, previous: str | None = None) -> Change:
    return Change(
        event=event,
        time=time,
        gpu=Gpu(uuid=uuid),
        place=Place("a", node),
        machine="m",
        source="s/p",
        previous=None if previous is None else Place("a", previous),
    )


def told(latest: RecentChanges, event: Event | None = None, *, after: int | None = None) -> list[tuple[str, str, int]]:
    return [(group.event, group.place.node, len(group.gpus)) for group in latest.newest(event, after=after)]


def test_changes_of_one_reading_are_grouped_by_kind() -> None:
    latest = RecentChanges()
    latest.add([change(Event.APPEARED, "1"), change(Event.APPEARED, "2"), change(Event.VANISHED, "3")])
    latest.add([change(Event.MOVED, "4", previous="n8"), change(Event.MOVED, "5", previous="n9")])
    assert told(latest) == [("moved", "n1", 1), ("moved", "n1", 1), ("vanished", "n1", 1), ("appeared", "n1", 2)]


def test_a_first_inventory_does_not_push_out_the_moves() -> None:
    latest = RecentChanges()
    latest.add([change(Event.MOVED, "m", previous="n2")])
    for number in range(3000):
        latest.add([change(Event.APPEARED, str(number), f"n{number}")])
    assert told(latest, Event.MOVED) == [("moved", "n1", 1)]
    assert len(told(latest, Event.APPEARED)) == 500
    assert told(latest)[0] == ("appeared", "n2999", 1)
    assert told(latest)[-1] == ("moved", "n1", 1)


def test_ids_increase_and_select_newer_changes() -> None:
    latest = RecentChanges()
    latest.add([change(Event.APPEARED, "1")])
    (first,) = latest.newest()
    latest.add([change(Event.VANISHED, "1")])
    assert told(latest, after=first.id) == [("vanished", "n1", 1)]
    assert told(latest, after=first.id + 1) == []


@pytest.mark.anyio
async def test_every_waiter_is_woken() -> None:
    latest = RecentChanges()
    woken = []

    async def wait(name: str) -> None:
        await latest.wait()
        woken.append(name)

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "a")
            tasks.start_soon(wait, "b")
            await anyio.wait_all_tasks_blocked()
            latest.add([])
            await anyio.wait_all_tasks_blocked()
            assert woken == []
            latest.add([change(Event.APPEARED, "1")])
    assert sorted(woken) == ["a", "b"]


def test_a_change_from_the_history_is_unchanged() -> None:
    recorded = HistoricChange(
        id=7,
        time=2.0,
        event="moved",
        uuid="GPU-1",
        serial="100",
        model="NVIDIA H100",
        chassis=None,
        cluster="a",
        node="n2",
        machine="i-2",
        source="s/p",
        previous=Place("a", "n1"),
    )
    assert as_change(recorded) == Change(
        event=Event.MOVED,
        time=2.0,
        gpu=Gpu(uuid="GPU-1", serial="100", model="NVIDIA H100"),
        place=Place("a", "n2"),
        machine="i-2",
        source="s/p",
        previous=Place("a", "n1"),
    )


def altered(uuid: str, *changes: FieldChange) -> Change:
    return msgspec.structs.replace(change(Event.ALTERED, uuid), changes=changes)


def test_gpus_that_are_altered_alike_are_one_group() -> None:
    latest = RecentChanges()
    mig = FieldChange("mig", False, True)
    latest.add(
        [
            altered(str(number), mig, *([FieldChange("serial", str(number), None)] if number % 2 else []))
            for number in range(8)
        ]
    )
    assert [(len(group.gpus), group.summary) for group in latest.newest()] == [
        (4, "MIG off → on, serial … → not reported"),
        (4, "MIG off → on"),
    ]
    (first, _) = latest.newest()
    assert [one[1] for one in first.altered] == [FieldChange("serial", str(n), None) for n in (1, 3, 5, 7)]


def test_an_alteration_from_the_history_has_the_old_value() -> None:
    recorded = HistoricChange(
        id=7,
        time=2.0,
        event="altered",
        uuid="GPU-1",
        serial="100",
        model=None,
        chassis=None,
        cluster="a",
        node="n2",
        machine="i-2",
        source="s/p",
        previous=None,
        changes=(FieldChange("serial", "100", None),),
        last_known=(LastReport("serial", 1.0),),
    )
    found = as_change(recorded)
    assert (found.changes, found.gpu.last_known) == (recorded.changes, recorded.last_known)
