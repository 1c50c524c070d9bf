"""What the history answers, on both engines."""

from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, event

from collector.health import Degradation, Health, degradations
from collector.model import Change, Event, FieldChange, Gpu, LastReport, Place, Step
from collector.store import Alteration, ChangeFilter, ChangePosition, Position, Store
from collector.store.history import MAX_ALTERATIONS
from collector.store.retention import prune
from tests.support.old_store import to_first_version
from tests.support.query_plans import plans_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def collector(settings, collecting):
    """A GPU that went from a to b to another cluster's c; one that vanished; one that stays."""
    async with collecting(settings) as one:
        one.read("a", 10.0, "1", "2", "3")
        one.read("b", 20.0, "1")
        one.read("a", 25.0, "3")
        one.read("c", 30.0, "1", cluster="lab")
        one.read("b", 40.0)
        one.read("c", 50.0, "1", cluster="lab")
        assert await one.store.history_writer.flushed(10)
        yield one


def lines(placements):
    return [(p.uuid, p.cluster, p.node, p.since, p.until, p.confirmed) for p in placements]


TIMELINE = [
    ("GPU-1", "lab", "c", 30.0, None, 50.0),
    ("GPU-1", "prod", "b", 20.0, 30.0, 20.0),
    ("GPU-1", "prod", "a", 10.0, 20.0, 10.0),
]


class TestLeft:
    async def test_former_gpus_are_in_the_order_of_departure(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1", "2", "3")
            one.read("a", 20.0, "1", "3", "4", "5")
            one.read("a", 30.0, "1", "5")
            one.read("a", 40.0, "1")
            one.read("b", 50.0, "1")
            assert await one.store.history_writer.flushed(10)
            left = await one.store.history.left_from(Place("prod", "a"), limit=3)
            assert [(p.uuid, p.until) for p in left] == [("GPU-1", 50.0), ("GPU-5", 40.0), ("GPU-4", 30.0)]
            assert await one.store.history.left_from(Place("prod", "b")) == []
            assert await one.store.history.left_from(Place("lab", "a")) == []


class TestWhere:
    async def test_the_current_place_comes_first(self, collector):
        assert lines(await collector.store.history.where("GPU-1")) == TIMELINE

    async def test_it_is_found_by_its_serial(self, collector):
        assert lines(await collector.store.history.where("serial-1")) == TIMELINE

    async def test_the_uuid_may_be_in_either_case(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, Gpu(uuid="GPU-0a1b-ff"))
            await one.store.history_writer.flushed(10)
            for term in ("GPU-0a1b-ff", "gpu-0A1B-FF"):
                assert lines(await one.store.history.where(term)) == [("GPU-0a1b-ff", "prod", "a", 10.0, None, 10.0)]

    async def test_a_chassis_lists_every_gpu_ever_in_it(self, collector):
        found = await collector.store.history.where("chassis-1")
        assert [(p.uuid, p.node, p.until) for p in found] == [
            ("GPU-1", "c", None),
            ("GPU-3", "a", None),
            ("GPU-1", "b", 30.0),
            ("GPU-2", "a", 25.0),
            ("GPU-1", "a", 20.0),
        ]

    async def test_a_gpu_never_seen_has_no_place(self, collector):
        assert await collector.store.history.where("GPU-9") == []

    async def test_a_placement_has_every_field(self, collector):
        placement = (await collector.store.history.where("GPU-3"))[0]
        assert (placement.serial, placement.model, placement.chassis, placement.machine) == (
            "serial-3",
            "NVIDIA H100",
            "chassis-1",
            "i-a",
        )

    async def test_it_has_the_position_of_a_gpu_in_its_machine(self, settings, collecting):
        card = Gpu(uuid="GPU-1", tray="3", slot="4", module="7", pci_bus_id="00000000:4E:00.0")
        async with collecting(settings) as one:
            one.read("a", 10.0, card)
            one.read("a", 20.0, msgspec.structs.replace(card, module="8"))
            one.read("a", 30.0)
            one.read("b", 40.0, msgspec.structs.replace(card, pci_bus_id=None))
            one.read("c", 50.0, Gpu(uuid="GPU-1"))
            await one.store.history_writer.flushed(10)
            found = await one.store.history.where("GPU-1")
        assert [(row.node, row.tray, row.slot, row.module, row.pci_bus_id) for row in found] == [
            ("c", None, None, None, None),
            ("b", "3", "4", "7", None),
            ("a", "3", "4", "8", "00000000:4E:00.0"),
        ]

    async def test_a_serial_that_one_reading_lacks_still_finds_it(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, Gpu(uuid="GPU-1", serial="s1", chassis="c1"))
            one.read("a", 20.0, Gpu(uuid="GPU-1"))
            await one.store.history_writer.flushed(10)
            assert lines(await one.store.history.where("s1")) == [("GPU-1", "prod", "a", 10.0, None, 20.0)]


class TestParts:
    @pytest.mark.parametrize(
        ("part", "found"),
        [
            ("ial-1", [("GPU-1", "prod", "b", 20.0, 30.0, 20.0)]),
            ("gpu-2", [("GPU-2", "prod", "a", 10.0, 25.0, 10.0)]),
            ("CHASSIS", [("GPU-1", "prod", "b", 20.0, 30.0, 20.0), ("GPU-2", "prod", "a", 10.0, 25.0, 10.0)]),
            ("GPU-3", []),  # it never left its node
            ("%", []),
            ("GPU_1", []),
        ],
    )
    async def test_gpus_that_left_a_node_are_found_by_part(self, collector, part, found):
        assert lines(await collector.store.history.where_like(part)) == found

    @pytest.mark.parametrize(
        ("part", "found"),
        [
            ("A", [("prod", "a", 25.0)]),
            ("i-", [("prod", "b", 30.0), ("prod", "a", 25.0)]),
            ("I-b", [("prod", "b", 30.0)]),
            ("c", []),  # nothing ever left it
            ("_", []),
        ],
    )
    async def test_former_nodes_are_found_by_part_of_name_or_machine(self, collector, part, found):
        rows = await collector.store.history.left_like(part)
        assert [(row.cluster, row.node, row.until) for row in rows] == found

    async def test_former_nodes_are_found_by_name_in_every_cluster(self, settings, collecting):
        async with collecting(settings) as one:
            for time, cluster in enumerate(("prod", "lab")):
                one.read("a", 10.0 + time, f"{cluster}-1", cluster=cluster)
                one.remove("a", 20.0 + time, cluster=cluster)
            one.read("aa", 30.0, "3")
            one.remove("aa", 40.0)
            assert await one.store.history_writer.flushed(10)
            rows = await one.store.history.left("a")
            assert [(row.cluster, row.node, row.until) for row in rows] == [("lab", "a", 21.0), ("prod", "a", 20.0)]
            assert len(await one.store.history.left("a", limit=1)) == 1

    async def test_the_last_of_several_departed_gpus_is_shown(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1", "2")
            one.read("a", 20.0, "1")
            one.read("a", 30.0)
            assert await one.store.history_writer.flushed(10)
            rows = await one.store.history.left("a")
            assert [(row.uuid, row.until) for row in rows] == [("GPU-1", 30.0)]


class TestNode:
    async def test_current_gpus_come_before_former_ones(self, collector):
        found = await collector.store.history.node("a", "prod")
        assert [(p.uuid, p.until) for p in found] == [("GPU-3", None), ("GPU-2", 25.0), ("GPU-1", 20.0)]

    async def test_nodes_of_one_name_in_several_clusters_are_all_found(self, collector):
        collector.read("a", 60.0, "9", cluster="lab")
        await collector.store.history_writer.flushed(10)
        found = await collector.store.history.node("a")
        assert [(p.cluster, p.uuid) for p in found if p.until is None] == [("lab", "GPU-9"), ("prod", "GPU-3")]


class TestChanges:
    async def test_all_changes_are_listed_in_order(self, collector):
        found = await collector.store.history.changes()
        assert [(c.event, c.uuid, c.node, c.time, c.previous) for c in found] == [
            ("appeared", "GPU-1", "a", 10.0, None),
            ("appeared", "GPU-2", "a", 10.0, None),
            ("appeared", "GPU-3", "a", 10.0, None),
            ("moved", "GPU-1", "b", 20.0, Place("prod", "a")),
            ("vanished", "GPU-2", "a", 25.0, None),
            ("moved", "GPU-1", "c", 30.0, Place("prod", "b")),
        ]

    async def test_a_time_range_includes_its_start_and_excludes_its_end(self, collector):
        found = await collector.store.history.changes(ChangeFilter(since=20.0, until=30.0))
        assert [(c.event, c.time) for c in found] == [("moved", 20.0), ("vanished", 25.0)]

    async def test_a_cluster_has_the_changes_into_and_out_of_it(self, collector):
        found = await collector.store.history.changes(ChangeFilter(cluster="lab"))
        assert [c.time for c in found] == [30.0]
        found = await collector.store.history.changes(ChangeFilter(cluster="prod", since=26.0))
        assert [(c.cluster, c.time) for c in found] == [("lab", 30.0)]

    async def test_pages_follow_each_other_without_gap_or_repetition(self, collector):
        whole = await collector.store.history.changes()
        pages, after = [], None
        while page := await collector.store.history.changes(limit=2, after=after):
            pages += page
            after = page[-1].id
        assert pages == whole

    async def test_following_includes_late_records_of_earlier_changes(self, collector):
        last = max(change.id for change in await collector.store.history.changes())
        collector.read("slow", 15.0, "7")
        collector.read("slow", 28.0)
        assert await collector.store.history_writer.flushed(10)
        pages = []
        while page := await collector.store.history.changes(after=last, limit=1):
            pages += page
            last = page[-1].id
        assert [(c.event, c.uuid, c.time) for c in pages] == [("appeared", "GPU-7", 15.0), ("vanished", "GPU-7", 28.0)]

    async def test_the_pages_of_a_time_range_are_in_order(self, collector):
        collector.read("slow", 15.0, "7")
        assert await collector.store.history_writer.flushed(10)
        whole = await collector.store.history.changes(ChangeFilter(since=12.0))
        assert [c.time for c in whole] == [15.0, 20.0, 25.0, 30.0]
        pages, after = [], None
        while page := await collector.store.history.changes(ChangeFilter(since=12.0), limit=1, after=after):
            pages += page
            after = page[-1].id
        assert pages == whole


class TestPagesOfPlacements:
    @pytest.mark.parametrize("limit", [1, 2, 3])
    async def test_they_follow_each_other_without_gap_or_repetition(self, collector, limit):
        pages, after = [], None
        while page := await collector.store.history.where("chassis-1", after=after, limit=limit):
            pages += page
            after = Position.parse(str(page[-1].position))
        assert pages == await collector.store.history.where("chassis-1")
        (last,) = await collector.store.history.node("a", "prod", after=pages[3].position)
        assert (last.uuid, last.until) == ("GPU-1", 20.0)

    async def test_a_placement_ending_between_pages_hides_nothing(self, collector):
        (first,) = await collector.store.history.where("chassis-1", limit=1)
        collector.read("c", 60.0, cluster="lab")
        collector.read("a", 60.0)
        assert await collector.store.history_writer.flushed(10)
        rest = await collector.store.history.where("chassis-1", after=first.position)
        assert [p.uuid for p in rest] == ["GPU-1", "GPU-1", "GPU-3", "GPU-2", "GPU-1"]

    @pytest.mark.parametrize("text", ["", "7", "present-1.0", "gone-1.0-2", "past-nan-3", "past--1.0-3", "past-1.0-٣"])
    def test_an_unknown_position_is_refused(self, text):
        with pytest.raises(ValueError, match="expected the `next` value of the previous page"):
            Position.parse(text)


class TestLatestChanges:
    async def test_the_newest_come_first(self, collector):
        found = await collector.store.history.latest_changes(limit=3)
        assert [(c.event, c.uuid, c.time) for c in found] == [
            ("moved", "GPU-1", 30.0),
            ("vanished", "GPU-2", 25.0),
            ("moved", "GPU-1", 20.0),
        ]

    async def test_changes_are_filtered_by_event_and_cluster(self, collector):
        found = await collector.store.history.latest_changes(ChangeFilter(events=["moved"], cluster="lab"))
        assert [(c.event, c.time) for c in found] == [("moved", 30.0)]

    async def test_pages_follow_each_other_without_gap_or_repetition(self, collector):
        whole = await collector.store.history.changes()
        pages, before = [], None
        while page := await collector.store.history.latest_changes(limit=2, before=before):
            pages += page
            before = ChangePosition(page[-1].time, page[-1].id)
        assert pages == whole[::-1]

    async def test_changes_are_filtered_by_node_gpu_or_serial(self, collector):
        async def ask(**wanted: Any) -> list[tuple[str, float]]:
            found = await collector.store.history.latest_changes(ChangeFilter(**wanted))
            return [(c.event, c.time) for c in found]

        assert await ask(node="b") == [("moved", 30.0), ("moved", 20.0)]
        assert await ask(node="b", cluster="lab") == []
        assert await ask(node="c", cluster="lab") == [("moved", 30.0)]
        assert await ask(uuid="gpu-2") == await ask(serial="serial-2") == [("vanished", 25.0), ("appeared", 10.0)]
        assert await ask(text="SERIAL-2") == [("vanished", 25.0), ("appeared", 10.0)]
        assert await ask(text="%") == []

    async def test_one_node_or_gpu_is_found_without_a_scan(self, collector):
        plans = []
        for wanted in (ChangeFilter(node="a"), ChangeFilter(uuid="GPU-1"), ChangeFilter(serial="serial-1")):
            plans += await plans_of(collector.store, collector.store.history.latest_changes(wanted))
        assert not any(scan in plan for plan in plans for scan in SCANS)


class TestFirstSights:
    """The GPUs of a node that was read for the first time are counted by cluster and day."""

    async def test_first_sights_of_a_cluster_are_grouped_by_day(self, settings, collecting):
        day = 86400.0
        async with collecting(settings) as one:
            one.read("a", 10.0, "1", "2")
            one.read("b", 20.0, "3", "4")
            one.read("c", 20.0, "5", cluster="lab")
            one.read("a", 30.0, "1", "2", "6")  # no first sight: the node is known
            assert await one.store.history_writer.flushed(10)
            one.read("d", day + 5.0, "7")
            one.remove("b", day + 6.0)
            assert await one.store.history_writer.flushed(10)
            one.read("b", day + 7.0, "8")  # nor is this
            assert await one.store.history_writer.flushed(10)
            ask = one.store.history.latest_first_sights
            whole = await ask()
            assert [(s.cluster, s.nodes, s.gpus, s.since, s.position.time) for s in whole] == [
                ("prod", 1, 1, day + 5.0, day + 5.0),
                ("lab", 1, 1, 20.0, 20.0),
                ("prod", 2, 4, 10.0, 20.0),
            ]
            assert [s.cluster for s in await ask(before=whole[0].position)] == ["lab", "prod"]
            assert await ask(before=whole[-1].position) == []
            assert await ask(since=day) == whole[:1]
            assert await ask(limit=1) == whole[:1]
            assert await ask(ChangeFilter(cluster="lab")) == whole[1:2]
            first = [(c.node, c.uuid) for c in await one.store.history.changes() if c.first_sight]
            assert sorted(first) == [
                ("a", "GPU-1"),
                ("a", "GPU-2"),
                ("b", "GPU-3"),
                ("b", "GPU-4"),
                ("c", "GPU-5"),
                ("d", "GPU-7"),
            ]

    async def test_counts_grow_with_commits_and_shrink_with_retention(self, settings, collecting):
        def counted(found):
            return [(s.cluster, s.node, s.nodes, s.gpus, s.since, s.position.time) for s in found]

        async with collecting(settings) as one:
            ask = one.store.history.latest_first_sights
            for number, node in enumerate(("b", "a", "c")):
                one.read(node, 10.0 * (number + 1), f"{node}-1", f"{node}-2")
                assert await one.store.history_writer.flushed(10)
            one.read("d", 86400.0, "d-1")
            assert await one.store.history_writer.flushed(10)
            assert counted(await ask()) == [("prod", "d", 1, 1, 86400.0, 86400.0), ("prod", "a", 3, 6, 10.0, 30.0)]
            assert counted(await ask(ChangeFilter(since=15.0, until=25.0))) == [("prod", "a", 1, 2, 20.0, 20.0)]
            assert await ask(ChangeFilter(until=10.0)) == []
            await prune(one.store.database, before=15.0)
            assert counted(await ask())[1:] == [("prod", "a", 2, 4, 20.0, 30.0)]
            await prune(one.store.database, before=86400.0)
            assert counted(await ask()) == [("prod", "d", 1, 1, 86400.0, 86400.0)]

    async def test_a_page_skips_a_fleet_of_first_sights(self, sqlite_settings, collecting):
        async with collecting(sqlite_settings) as one:
            one.read("a", 10.0, "1")
            assert await one.store.history_writer.flushed(10)
            plans = []
            for cluster in (None, "prod"):
                wanted = ChangeFilter(cluster=cluster, first_sights=False)
                plans += await plans_of(one.store, one.store.history.latest_changes(wanted))
        found = {name for name in ("other", "cluster", "across") if any(f"gpuid_changes_{name}" in p for p in plans)}
        assert found == {"other", "cluster", "across"}
        assert not any("TEMP B-TREE" in plan for plan in plans)

    async def test_first_sights_are_found_in_an_older_store(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1")
            one.read("a", 20.0, "1", "2")
            one.read("b", 2 * 86400.0 - 1.0, "3")
            assert await one.store.history_writer.flushed(10)
            counted = await one.store.history.latest_first_sights()
        async with Store.open(settings) as store, store.database.write() as connection:
            await to_first_version(connection)
        async with Store.open(settings) as store:
            assert [(c.uuid, c.first_sight) for c in await store.history.changes()] == [
                ("GPU-1", True),
                ("GPU-2", False),
                ("GPU-3", True),
            ]
            assert [(s.since, s.gpus) for s in counted] == [(2 * 86400.0 - 1.0, 1), (10.0, 1)]
            assert await store.history.latest_first_sights() == counted


class TestAlterations:
    """Alterations belong to the placement during which they happened."""

    async def test_each_placement_has_its_alterations_newest_first(self, settings, collecting):
        gpu = Gpu(uuid="GPU-1", serial="S", vbios="1")
        async with collecting(settings) as one:
            one.read("a", 10.0, gpu)
            one.read("a", 20.0, Gpu(uuid="GPU-1", vbios="1"))
            one.read("a", 30.0, Gpu(uuid="GPU-1", vbios="2"))
            one.read("b", 40.0, Gpu(uuid="GPU-1", vbios="2"))
            one.read("b", 50.0, Gpu(uuid="GPU-1", serial="S", vbios="2"))
            assert await one.store.history_writer.flushed(10)
            after, before = await one.store.history.where("S")
            assert (after.node, after.last_known) == ("b", ())
            assert after.altered == (Alteration(50.0, (FieldChange("serial", None, "S"),)),)
            assert (before.node, before.last_known) == ("a", (LastReport("serial", 10.0),))
            assert before.altered == (
                Alteration(30.0, (FieldChange("vbios", "1", "2"),)),
                Alteration(20.0, (FieldChange("serial", "S", None),)),
            )

    async def test_only_the_newest_of_many_alterations_are_returned(self, settings, collecting):
        async with collecting(settings) as one:
            for number in range(MAX_ALTERATIONS + 5):
                one.read("a", 10.0 + number, Gpu(uuid="GPU-1", vbios=str(number)))
            assert await one.store.history_writer.flushed(10)
            (placement,) = await one.store.history.where("GPU-1")
            assert [one.time for one in placement.altered] == [34.0 - number for number in range(MAX_ALTERATIONS)]


WORN = Health(row_remap_failure=True, ecc_dram_uncorrectable=3)


class TestHealth:
    """How a GPU was is with the placement during which it was, and how it is now with the GPU."""

    async def test_each_placement_has_its_own_changes(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, Gpu(uuid="GPU-1", health=Health(ecc_dram_uncorrectable=0)))
            one.read("a", 20.0, Gpu(uuid="GPU-1", health=Health(ecc_dram_uncorrectable=3)))
            one.read("b", 30.0, Gpu(uuid="GPU-1", health=Health(ecc_dram_uncorrectable=3)))
            one.read("b", 40.0, Gpu(uuid="GPU-1", health=Health(ecc_dram_uncorrectable=1)))
            assert await one.store.history_writer.flushed(10)
            after, before = await one.store.history.where("GPU-1")
            assert after.health_changes == (Alteration(40.0, (FieldChange("ecc_dram_uncorrectable", 3, 1),)),)
            assert before.health_changes == (Alteration(20.0, (FieldChange("ecc_dram_uncorrectable", 0, 3),)),)
            assert (after.altered, before.altered) == ((), ())
            (change, *_) = await one.store.history.changes(ChangeFilter(events=["health"]))
            assert (change.event, change.time) == ("health", 20.0)

    async def test_the_condition_is_from_the_last_reading(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, Gpu(uuid="GPU-1", health=WORN), Gpu(uuid="GPU-2", health=WORN), "3")
            one.read("a", 20.0, Gpu(uuid="GPU-1", health=WORN), lost=["3"])
            one.read("b", 20.0, "4")
            assert await one.store.history_writer.flushed(10)
            found = await one.store.history.conditions({f"GPU-{n}" for n in range(6)})
            live = [one.inventory.find(uuid=f"GPU-{n}")[0].condition for n in (1, 3, 4)]
            assert [found[f"GPU-{n}"] for n in (1, 3, 4)] == live
            assert found["GPU-2"].health == WORN
            assert one.inventory.last_condition("gpu-2") == found["GPU-2"]
            assert found["GPU-2"].read == 10.0  # before it left
            assert degradations(one.inventory.last_condition("gpu-2")) == degradations(found["GPU-2"])
            assert degradations(found["GPU-2"]) == (Degradation.ROW_REMAP_FAILURE,)
            assert degradations(found["GPU-3"]) == (Degradation.LOST,)
            assert sorted(found) == ["GPU-1", "GPU-2", "GPU-3", "GPU-4"]
            assert one.inventory.last_condition("GPU-5") is None


class TestAfterALoss:
    """Past the limit of what waits, the recorded nodes and those of now say what was altered."""

    async def test_every_field_is_found(self, settings, collecting):
        before = Gpu(uuid="GPU-1", serial="S", gpu_part_number="P", vbios="1", mig=False)
        async with collecting(settings, max_pending=-1) as one:
            one.read("a", 10.0, before)
            assert await one.store.history_writer.flushed(10)
            one.read("a", 20.0, Gpu(uuid="GPU-1", vbios="2", mig=True))
            assert await one.store.history_writer.flushed(10)
            one.remove("a", 30.0)
            assert await one.store.history_writer.flushed(10)
            _, altered, _ = await one.store.history.changes()
            assert set(altered.changes) == {
                FieldChange("serial", "S", None),
                FieldChange("gpu_part_number", "P", None),
                FieldChange("vbios", "1", "2"),
                FieldChange("mig", False, True),
            }
            facts = (await one.store.load()).facts["GPU-1"]
            assert (facts.serial, facts.gpu_part_number) == ("S", "P")
            assert dict(facts.last_known) == {"serial": 10.0, "gpu_part_number": 10.0}


def worn(rows: int, name: str = "1") -> Gpu:
    return Gpu(uuid=f"GPU-{name}", serial=f"S{name}", health=Health(remapped_rows_correctable=rows))


class TestTheHealthOfAGpu:
    """How a GPU's health changed is found by what names the GPU, wherever that was."""

    async def test_the_health_of_a_gpu_is_found_without_a_scan(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, worn(1))
            assert await one.store.history_writer.flushed(10)
            plans = await plans_of(one.store, one.store.history.health_changes(["GPU-1"]))
        assert any(index in plan for plan in plans for index in ("gpuid_gpus_uuid", "gpuid_changes_uuid"))
        assert not any(scan in plan for plan in plans for scan in SCANS)

    async def test_a_confirmed_reading_writes_nothing_of_a_gpu(self, sqlite_settings, collecting):
        async with collecting(sqlite_settings) as one:
            one.read("a", 10.0, worn(1), worn(0, "2"))
            assert await one.store.history_writer.flushed(10)
            written: list[str] = []

            def note(_connection, _cursor, statement, *_):
                written.append(statement)

            event.listen(Engine, "before_cursor_execute", note)
            one.read("a", 20.0, worn(1), worn(0, "2"))
            assert await one.store.history_writer.flushed(10)
            event.remove(Engine, "before_cursor_execute", note)
        written = [one.split("(")[0] for one in written if one.startswith(("INSERT", "UPDATE", "DELETE"))]
        assert [one.split()[2] for one in written if "gpuid_facts" not in one] == ["gpuid_nodes"]


SCANS = ("SCAN r", "Seq Scan on gpuid_changes")  # on SQLite of the rows from which the view is made


class TestHealthChanges:
    async def test_health_changes_of_some_gpus_come_newest_first(self, settings, collecting):
        async with collecting(settings) as one:
            one.read("a", 10.0, "1", "2")
            node = one.inventory.node(Place("prod", "a"))
            for time, gpu in ((20.0, node.gpus[0]), (30.0, node.gpus[1]), (40.0, node.gpus[0])):
                worn = (FieldChange("remapped_rows_uncorrectable", 0, 1),)
                change = Change.of(node, Event.HEALTH, time, gpu, changes=worn)
                one.store.history_writer.append(Step(changes=(change,)))
            assert await one.store.history_writer.flushed(10)
            ask = one.store.history.health_changes
            assert [(row.uuid, row.time) for row in await ask(["GPU-1"])] == [("GPU-1", 40.0), ("GPU-1", 20.0)]
            assert [row.time for row in await ask(["GPU-1", "GPU-2"])] == [40.0, 30.0, 20.0]
            assert [row.time for row in await ask(["GPU-1", "GPU-2"], limit=1)] == [40.0]
            assert [row.time for row in await ask(["GPU-1"], before=40.0)] == [20.0]
            assert (await ask(["GPU-2"]))[0].changes == (FieldChange("remapped_rows_uncorrectable", 0, 1),)
            assert await ask([]) == []
