"""The demo's generated past: deterministic, consistent in the store, and ending where the demo begins."""

import contextlib
import itertools
import math
import sqlite3
import time
from pathlib import Path

import pytest

from collector.cli.demo_past import write_past
from collector.cli.demo_story import PAST_DAYS, Story
from collector.cli.demo_teller import DRIVERS, tell
from collector.health import Degradation
from collector.marks import MarkKind
from collector.model import NodeState, Place
from collector.simulator import Simulator
from collector.store import OpenMode, Store, StoreSettings

SIZES = [(3, 20, 8), (2, 3, 4), (1, 2, 8), (1, 1, 1), (4, 10, 3), (3, 1, 2)]


def told(clusters: int, nodes: int, gpus: int) -> tuple[Story, Simulator]:
    simulator = Simulator(clusters=clusters, nodes=nodes, gpus=gpus, drivers=DRIVERS, age=PAST_DAYS * 86400.0)
    return tell(simulator.fleet, simulator.drivers), simulator


def test_the_same_fleet_has_the_same_past() -> None:
    one, other = told(2, 10, 4)[0], told(2, 10, 4)[0]
    assert one.seen == other.seen
    assert (one.notes, one.lost, one.featured) == (other.notes, other.lost, other.featured)


@pytest.mark.parametrize("size", SIZES)
def test_a_fleet_of_any_size_has_a_past_in_order(size: tuple[int, int, int]) -> None:
    story, _ = told(*size)
    by_node: dict[Place, list[float]] = {}
    for seen in story.seen:
        by_node.setdefault(seen.place, []).append(seen.ago)
    assert all(times == sorted(times, reverse=True) and min(times) > 0 for times in by_node.values())
    assert len(by_node) == size[0] * size[1]


@pytest.mark.parametrize("size", SIZES)
def test_the_history_ends_with_the_last_reading(size: tuple[int, int, int]) -> None:
    story, simulator = told(*size)
    last = {seen.place: seen.report for seen in story.seen}
    found = {(place, gpu.uuid) for place, report in last.items() for gpu in report.gpus}
    lost = {*story.lost, *story.missing}  # once the clusters run
    truth = {(Place(one.cluster, one.node), one.uuid) for one in simulator.fleet.expected()}
    assert found == truth - lost


def test_there_is_one_fault_of_each_kind_and_a_page_for_three() -> None:
    story, _ = told(3, 20, 8)
    assert [len(one) for one in (story.lost, story.missing, story.unreadable, story.doubled, story.swapped)] == [1] * 5
    assert [sight.path.split("/")[1].split("?")[0] for sight in story.sights[:3]] == ["gpus", "clusters", "changes"]


@pytest.mark.parametrize("size", SIZES)
def test_an_unreadable_node_names_its_own_gpu(size: tuple[int, int, int]) -> None:
    story, _ = told(*size)
    buses = {seen.place: {gpu.pci_bus_id for gpu in seen.report.gpus} for seen in story.seen}
    for place, said in story.unreadable:
        assert [f"0000{word.removesuffix(':')}" in buses[place] for word in said.split() if word[0] == "0"] == [True]


class TestInTheStore:
    @pytest.fixture
    def path(self, tmp_path: Path, anyio_backend: str) -> Path:
        return tmp_path / "gpuid.db"

    async def write(self, path: Path, *size: int) -> tuple[Story, Simulator, list[NodeState]]:
        story, simulator = told(*size)
        settings = StoreSettings(url=f"sqlite://{path}")
        async with simulator:
            await write_past(story, simulator, settings)
        async with Store.open(settings, OpenMode.READER) as store:
            return story, simulator, (await store.load()).nodes

    @pytest.mark.parametrize("size", [(3, 20, 8), (2, 3, 4), (1, 1, 1)])
    async def test_no_gpu_is_in_two_places_at_once(self, path: Path, size: tuple[int, int, int]) -> None:
        await self.write(path, *size)
        with contextlib.closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT uuid, since, until, confirmed FROM gpuid_placements ORDER BY since, id")
            places: dict[str, list[tuple[float, float | None]]] = {}
            for uuid, since, until, confirmed in rows:
                assert since <= (until or math.inf), uuid
                assert since <= confirmed <= (until or math.inf), uuid
                assert until is None or until - confirmed < 7200, uuid
                places.setdefault(uuid, []).append((since, until))
            assert all(
                end is not None and end <= begin
                for stays in places.values()
                for (_, end), (begin, _) in itertools.pairwise(stays)
            )
            changes = database.execute("SELECT uuid, time FROM gpuid_changes ORDER BY id").fetchall()
        now = time.time()
        times: dict[str, list[float]] = {}
        for uuid, at in changes:
            times.setdefault(uuid, []).append(at)
        assert all(of_one == sorted(of_one) for of_one in times.values())
        assert now - (PAST_DAYS + 1.0) * 86400.0 < min(at for _, at in changes) <= max(at for _, at in changes) < now

    async def test_the_present_is_that_of_the_fleet(self, path: Path) -> None:
        story, simulator, nodes = await self.write(path, 3, 20, 8)
        present = {(node.place, gpu.uuid) for node in nodes for gpu in node.gpus}
        lost = set(story.lost)
        assert {(node.place, uuid) for node in nodes for uuid in node.lost_uuids} == lost
        truth = {(Place(one.cluster, one.node), one.uuid) for one in simulator.fleet.expected()}
        ((home, uuid, claimant),) = story.doubled  # of which the collector is to find out
        assert {place for place, other in truth if other == uuid} == {home, claimant}
        assert present - {one for one in present if one[0] == claimant} == {
            one for one in truth | lost if one[0] != claimant
        }
        assert len(lost) == 1

    async def test_there_is_one_gpu_of_each_kind_of_trouble(self, path: Path) -> None:
        _, _, nodes = await self.write(path, 3, 20, 8)
        reasons = {reason for node in nodes for one in node.placements() for reason in one.degradations}
        assert reasons == set(Degradation)

    async def test_troubles_have_a_history(self, path: Path) -> None:
        story, _, nodes = await self.write(path, 3, 20, 8)
        by_title = {featured.title: featured.uuid for featured in story.featured}
        here = {gpu.uuid for node in nodes for gpu in node.gpus}
        async with Store.open(StoreSettings(url=f"sqlite://{path}"), OpenMode.READER) as store:
            absent = (await store.load()).absent
            moved = by_title["failed in one cluster and turned up in another"]
            places = await store.history.where(moved)
            assert len({one.cluster for one in places}) == 2
            assert [one.until is None for one in places] == [True, False]
            repaired = by_title["under repair"]
            assert repaired in absent.keys() - here
            back = by_title["error counters went back"]
            changes = [one for one in await store.history.changes(limit=10_000) if one.uuid == back]
            assert any(change.went_back for one in changes for change in one.changes)
            marks = {mark.uuid: mark.kind for mark in (await store.marks.in_force())[1]}
        assert marks == {
            moved: MarkKind.RMA,
            repaired: MarkKind.RMA,
            by_title["SRAM threshold exceeded"]: MarkKind.QUARANTINE,
            by_title["uncorrectable errors are increasing"]: MarkKind.WATCH,
        }
