"""The store as the collector uses it: everything recorded is there after the next start, on both engines."""

import time

import pytest

from collector.model import Gpu, Place, UnidentifiedGpu

pytestmark = pytest.mark.anyio

A, B = Place("prod", "a"), Place("prod", "b")


class TestAfterARestart:
    async def test_the_inventory_is_unchanged(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1", "2")
            one.read("b", 11.0, "3")
            assert await one.store.history_writer.flushed(10)
            before = [one.inventory.node(place) for place in (A, B)]
        async with collecting(settings) as two:
            assert [two.inventory.node(place) for place in (A, B)] == before

    async def test_the_last_records_are_committed_on_stopping(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1")
        async with collecting(settings) as two:
            assert two.inventory.find(uuid="GPU-1")[0].place == A

    async def test_a_gpu_that_vanished_before_and_appears_elsewhere_has_moved(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1", "2")
            one.read("a", 20.0, "2")
        async with collecting(settings) as two:
            (change,) = two.read("b", 30.0, "1")
            assert (change.event, change.previous) == ("moved", A)
        async with collecting(settings) as three:
            placements = await three.store.history.where("GPU-1")
            assert [(p.node, p.since, p.until) for p in placements] == [("b", 30.0, None), ("a", 10.0, 20.0)]
            assert (await three.store.load()).absent == {}

    @pytest.mark.parametrize("node", ["a", "b"])
    async def test_no_gpu_returns_before_it_left_despite_the_clock(self, settings, collecting, node):
        async with collecting(settings) as one:
            one.read("a", 4000.0, "1", "2")
            one.read("b", 4000.0, "3")
            one.read("a", 5000.0, "2")
        async with collecting(settings) as two:  # an hour earlier
            two.read(node, 1400.0, *("12" if node == "a" else "13"))
            two.read("a", 1500.0, *("12" if node == "a" else "2"))
        async with collecting(settings) as three:
            ends = [(p.node, p.since, p.until) for p in await three.store.history.where("GPU-1")]
            assert ends == [(node, 5000.0, None), ("a", 4000.0, 5000.0)]
            times = [one.time for one in await three.store.history.changes(after=0) if one.uuid == "GPU-1"]
            assert times == [4000.0, 5000.0, 5000.0]

    @pytest.mark.parametrize("leave", ["reading", "node", "move"])
    async def test_no_gpu_leaves_before_it_arrived_despite_the_clock(self, settings, collecting, leave):
        async with collecting(settings) as one:
            one.read("a", 5000.0, "1")
            one.read("b", 5000.0)
        async with collecting(settings) as two:  # an hour earlier
            if leave == "reading":
                two.read("a", 1400.0)
            elif leave == "node":
                two.remove("a", 1400.0)
            else:
                two.read("b", 1400.0, "1")
            two.read("b", 1500.0, "1")
        async with collecting(settings) as three:
            placements = [(p.node, p.since, p.until) for p in await three.store.history.where("GPU-1")]
            assert placements == [("b", 5000.0, None), ("a", 5000.0, 5000.0)]

    async def test_a_removed_cluster_removes_its_absent_gpus(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1", "2")
            one.read("b", 10.0, "3", cluster="lab")
            one.read("a", 20.0, "1")
            one.read("b", 20.0, cluster="lab")
            one.remove_cluster("prod", 30.0)
            assert await one.store.history_writer.flushed(10)
            assert (await one.store.load()).absent == {"GPU-3": Place("lab", "b")} == one.inventory.absent()

    async def test_a_gpu_of_a_removed_cluster_does_not_return_before_it_left(self, settings, collecting):
        now = time.time()
        async with collecting(settings) as one:
            one.read("a", now, "1", "2")
            one.read("a", now + 600.0, "1")  # its clock is ahead
            one.remove_cluster("prod", now + 601.0)
        async with collecting(settings) as two:
            two.read("a", now + 1.0, "1", "2")
        async with collecting(settings) as three:
            since = {uuid: (await three.store.history.where(uuid))[0].since for uuid in ("GPU-1", "GPU-2")}
            assert since == {"GPU-1": now + 601.0, "GPU-2": now + 600.0}

    async def test_the_machine_that_a_node_was_is_recorded(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1")
            assert await one.store.history_writer.flushed(10)
            (placement,) = (await one.store.recorded({A: None})).here
            assert placement.machine == "i-a"

    async def test_a_gpu_back_in_one_node_is_not_absent(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1")
            one.read("a", 20.0)
            assert await one.store.history_writer.flushed(10)
            one.read("b", 30.0, "1")  # from here on in one commit
            one.read("a", 40.0, "1")
            one.read("b", 50.0, "1")
            one.read("a", 60.0)
        async with collecting(settings) as two:
            assert [p.place for p in two.inventory.find(uuid="GPU-1")] == [B]
            assert (await two.store.load()).absent == {}

    async def test_a_conflict_is_restored(self, settings, collecting):
        async with collecting(settings) as one:
            one.conflict("a", "b", 10.0, "1")
            assert one.inventory.conflicts("prod") == 1
        async with collecting(settings) as two:
            assert two.inventory.conflicts("prod") == 1
            open_ = [p.node for p in await two.store.history.where("GPU-1") if p.until is None]
            assert sorted(open_) == ["a", "b"]

    async def test_a_claim_is_restored_and_not_in_history(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1")
            assert one.read("b", 11.0, "1", both=True) == []
        async with collecting(settings) as two:
            assert two.inventory.claimed("prod") == {"GPU-1"}
            assert [(p.node, p.until) for p in await two.store.history.where("GPU-1")] == [("a", None)]
            (change,) = two.read("a", 12.0)
            assert (change.event, change.place.node, change.time) == ("moved", "b", 11.0)
            assert await two.store.history_writer.flushed(10)
            placements = [(p.node, p.since, p.until) for p in await two.store.history.where("GPU-1")]
            assert sorted(placements) == [("a", 10.0, 11.0), ("b", 11.0, None)]

    @pytest.mark.parametrize("committed", [True, False])
    @pytest.mark.parametrize("leave", ["reading", "node", "move"])
    async def test_a_lost_gpu_was_last_seen_when_it_answered_last(self, settings, collecting, leave, committed):
        card = Gpu(uuid="GPU-1", pci_bus_id="00000000:5D:00.0")
        async with collecting(settings) as one:
            one.read("a", 10.0, card, "2")
            one.read("a", 20.0, card, "2")
            if committed:
                assert await one.store.history_writer.flushed(10)
            for time in (30.0, 40.0):
                one.read("a", time, "2", UnidentifiedGpu(pci_bus_id="00000000:5D:00.0"))
            if committed:
                assert await one.store.history_writer.flushed(10)
            if leave == "reading":
                one.read("a", 50.0, "2")
            elif leave == "node":
                one.remove("a", 50.0)
            else:
                one.read("b", 50.0, card)
            assert await one.store.history_writer.flushed(10)
            ended = [p for p in await one.store.history.where("GPU-1") if p.until is not None]
            assert [(p.node, p.since, p.until, p.confirmed) for p in ended] == [("a", 10.0, 50.0, 20.0)]

    async def test_a_reading_that_only_confirms_changes_nothing_but_its_node(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1")
            await one.store.history_writer.flushed(10)
            changes = await one.store.history.changes()
            one.read("a", 70.0, "1")
            await one.store.history_writer.flushed(10)
            assert await one.store.history.changes() == changes
            (placement,) = await one.store.history.where("GPU-1")
            assert (placement.since, placement.confirmed) == (10.0, 70.0)


class TestTheNodes:
    async def test_nodes_come_in_parts_ordered_by_cluster_and_node(self, settings, collecting):
        async with collecting(settings, decode_nodes=2) as one:
            for number, (cluster, node) in enumerate([("b", "1"), ("a", "2"), ("b", "3"), ("a", "1"), ("c", "1")]):
                one.read(node, 10.0, f"{number}", cluster=cluster)
            assert await one.store.history_writer.flushed(10)
            parts = [part async for part in one.store.nodes()]
        assert [[tuple(node.place) for node in part] for part in parts] == [
            [("a", "1"), ("a", "2")],
            [("b", "1"), ("b", "3")],
            [("c", "1")],
        ]
