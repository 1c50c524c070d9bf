"""The fleet at a time, on each engine."""

import math
from typing import Any

import pytest
from sqlalchemy import delete

from collector.marks import MarkKind, NewMark
from collector.model import Gpu, Place
from collector.store import GpuPosition, StoreSettings, schema
from collector.store.altered import LAST_ALTERED, altered_after, note_altered
from collector.store.checkpoints import keep
from collector.store.facts import fact
from collector.store.retention import prune
from collector.views.past import NotRecordedError, look_back

pytestmark = pytest.mark.anyio


async def fill(fleet: Any) -> None:
    """GPU 1 goes from a to b, and 2 and 3 are taken out; all of them are in a cluster that is removed at last."""
    fleet.read("a", 100.0, "1", "2")
    fleet.read("c", 110.0, "3", cluster="lab")
    fleet.read("b", 200.0, "1")
    fleet.read("a", 300.0)
    fleet.remove_cluster("lab", 400.0)
    assert await fleet.store.history_writer.flushed(10)


async def counts(fleet: Any, time: float) -> dict[str, tuple[int, int]]:
    return {name: (one.nodes, one.gpus) for name, one in (await fleet.store.past.counts(time)).items()}


THEN = {
    99.0: {},
    100.0: {"prod": (1, 2)},
    150.0: {"prod": (1, 2), "lab": (1, 1)},
    250.0: {"prod": (2, 2), "lab": (1, 1)},
    350.0: {"prod": (1, 1), "lab": (1, 1)},
    450.0: {"prod": (1, 1)},
}


@pytest.mark.parametrize("events", [0, 1, 2, 100])
async def test_counts_are_right_with_any_checkpoints(settings: StoreSettings, collecting: Any, events: int) -> None:
    async with collecting(settings) as fleet:
        await fill(fleet)
        if events:
            assert (await keep(fleet.store.database, math.inf, events=events) > 0) == (events < 100)
        assert {time: await counts(fleet, time) for time in THEN} == THEN


async def test_late_records_are_counted(settings: StoreSettings, collecting: Any) -> None:
    async with collecting(settings) as fleet:
        await fill(fleet)
        await keep(fleet.store.database, math.inf, events=1)
        fleet.read("d", 120.0, "4")
        assert await fleet.store.history_writer.flushed(10)
        assert await counts(fleet, 150.0) == {"prod": (2, 3), "lab": (1, 1)}
        assert await counts(fleet, 110.0) == THEN[150.0]


async def test_no_checkpoint_covers_a_time_still_being_recorded(settings: StoreSettings, collecting: Any) -> None:
    async with collecting(settings) as fleet:
        await fill(fleet)
        assert await keep(fleet.store.database, 900.0, events=1) == 0
        assert await keep(fleet.store.database, 1001.0, events=1) == 1


async def test_gpus_and_nodes_come_in_pages(settings: StoreSettings, collecting: Any) -> None:
    async with collecting(settings) as fleet:
        await fill(fleet)
        past = fleet.store.past
        first, second = await past.gpus(150.0, limit=2)
        assert (first.cluster, first.node, first.uuid, first.serial) == ("lab", "c", "GPU-3", "serial-3")
        assert (second.node, second.uuid, second.since, second.until) == ("a", "GPU-1", 100.0, 200.0)
        (third,) = await past.gpus(150.0, after=GpuPosition("prod", "a", "GPU-1"), limit=2)
        assert third.uuid == "GPU-2"
        (node,) = await past.nodes(250.0, {"cluster": ["prod"]}, after=Place("prod", "a"))
        assert (node.node, node.machine, node.models, node.chassis) == ("b", "i-b", {"NVIDIA H100": 1}, ("chassis-1",))
        assert [one.node for one in await past.nodes(250.0, {"node": ["b", "c"]})] == ["c", "b"]
        assert [one.node for one in await past.gpus(250.0, {"uuid": ["gpu-1"]})] == ["b"]
        assert await past.count_gpus(250.0, {"serial": ["serial-1", "serial-2"]}) == 2
        assert await past.count_nodes(250.0, {"machine": ["i-a", "i-c"]}) == 2


async def test_a_forgotten_past_is_not_shown_as_empty(settings: StoreSettings, collecting: Any) -> None:
    async with collecting(settings) as fleet:
        with pytest.raises(NotRecordedError, match="nothing has been recorded yet"):
            await look_back(fleet.store.past, 100.0)
        await fill(fleet)
        await keep(fleet.store.database, math.inf, events=1)
        with pytest.raises(NotRecordedError, match=r"the history begins at 1970-01-01T00:01:40\.000Z"):
            await look_back(fleet.store.past, 99.0)
        await prune(fleet.store.database, 250.0)
        with pytest.raises(NotRecordedError, match=r"the history begins at 1970-01-01T00:04:10\.000Z"):
            await look_back(fleet.store.past, 249.0)
        kept = {time: one for time, one in THEN.items() if time >= 250.0}
        assert {time: await counts(fleet, time) for time in kept} == kept
        await prune(fleet.store.database, 240.0)  # a longer retention from now on brings nothing back
        assert (await fleet.store.past.begins())[0] == 250.0


async def test_a_replacement_store_knows_no_earlier_past(settings: StoreSettings, collecting: Any) -> None:
    async with collecting(settings, clock=lambda: 500.0) as fleet:
        fleet.read("a", 100.0, "1")
        await fleet.store.renew(lambda: {Place("prod", "a"): fleet.inventory.node(Place("prod", "a"))})
        assert await fleet.store.history_writer.flushed(10)
        with pytest.raises(NotRecordedError, match=r"the history begins at 1970-01-01T00:08:20\.000Z"):
            await look_back(fleet.store.past, 499.0)
        assert await counts(fleet, 500.0) == {"prod": (1, 1)}


async def test_marks_are_those_of_that_time(settings: StoreSettings, collecting: Any) -> None:
    now = [150.0]
    async with collecting(settings, clock=lambda: now[0]) as fleet:
        await fill(fleet)
        await fleet.store.marks.set(["GPU-1"], NewMark(kind=MarkKind.RMA, until=220.0), by="ann")
        await fleet.store.marks.set(["GPU-2"], NewMark(kind=MarkKind.WATCH), by="ann")
        now[0] = 180.0
        await fleet.store.marks.remove(["GPU-2"], by="ben")
        found = {}
        for time in (140.0, 160.0, 190.0, 250.0):
            then = await look_back(fleet.store.past, time)
            found[time] = {
                one.placement.uuid: one.mark.kind for one in await then.gpus({"cluster": ["prod"]}) if one.mark
            }
        assert found == {140.0: {}, 160.0: {"GPU-1": "rma", "GPU-2": "watch"}, 190.0: {"GPU-1": "rma"}, 250.0: {}}


async def last_altered(fleet: Any) -> float | None:
    async with fleet.store.database.read() as connection:
        return await fact(connection, LAST_ALTERED)


async def test_later_alterations_are_undone(settings: StoreSettings, collecting: Any) -> None:
    def gpu(number: int, **facts: Any) -> Gpu:
        return Gpu(**{"uuid": f"GPU-{number}", "serial": f"s{number}", "model": "old", "chassis": "c1", **facts})

    async with collecting(settings) as fleet:
        fleet.read("a", 100.0, gpu(1, module="1"), gpu(2))
        fleet.read("b", 100.0, gpu(3))
        assert await fleet.store.history_writer.flushed(10)
        assert await last_altered(fleet) is None
        fleet.read("a", 200.0, gpu(1, module="1", vbios="2"), gpu(2))  # of which placements have nothing
        assert await fleet.store.history_writer.flushed(10)
        assert await last_altered(fleet) is None
        fleet.read("a", 300.0, gpu(1, model="new", serial=None, chassis="c2", module="2"), gpu(2))
        assert await fleet.store.history_writer.flushed(10)
        assert await last_altered(fleet) == 300.0
        past = fleet.store.past
        for _ in "noted", "not noted by an earlier version":
            one, two = await past.gpus(250.0, {"node": ["a"]})
            assert (one.serial, one.model, one.chassis, one.module) == ("s1", "old", "c1", "1")
            assert (two.serial, two.model, two.chassis, two.module) == ("s2", "old", "c1", None)
            assert (await past.counts(250.0))["prod"].models == {"old": 3}
            assert (await past.counts(300.0))["prod"].models == {"old": 2, "new": 1}
            assert [node.models for node in await past.nodes(250.0)] == [{"old": 2}, {"old": 1}]
            for where, gpus, nodes in (
                ({"model": ["old"]}, 3, 2),
                ({"model": ["new"]}, 0, 0),
                ({"chassis": ["c2"]}, 0, 0),
            ):
                assert len(await past.gpus(250.0, where, limit=1)) == min(gpus, 1)
                assert (await past.count_gpus(250.0, where), await past.count_nodes(250.0, where)) == (gpus, nodes)
            (now,) = await past.gpus(350.0, {"chassis": ["c2"]})
            assert (now.model, now.module) == ("new", "2")
            async with fleet.store.database.write() as connection:
                await connection.execute(delete(schema.meta).where(schema.meta.c.name == LAST_ALTERED))
        await note_altered(fleet.store.database)
        assert await last_altered(fleet) == 300.0


async def test_a_store_without_alterations_is_not_queried_for_them(settings: StoreSettings, collecting: Any) -> None:
    async with collecting(settings) as fleet:
        await fill(fleet)
        await note_altered(fleet.store.database)
        assert await last_altered(fleet) == 0.0
        async with fleet.store.database.read() as connection:
            assert not await altered_after(connection, 1.0)
