"""The degraded GPUs of a fleet."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from collector.health import Degradation, Health, Level
from collector.marks import Mark, MarkKind
from collector.model import ClusterState, Gpu, GpuRef, ReadFailure
from collector.views.degraded import DegradedGpu, count_levels, degraded_in, worst_in
from collector.views.health import Filter, HealthSurveys, degraded_times, select, survey_health
from tests.web.conftest import Site, keeping

pytestmark = pytest.mark.anyio

SOUND = Health(row_remap_pending=False, ecc_dram_uncorrectable=0)
PENDING = Health(row_remap_pending=True)
FAILED = Health(row_remap_failure=True, remapped_rows_uncorrectable=4)


def card(name: str, health: Health | None = None, model: str = "NVIDIA H100") -> Gpu:
    return Gpu(uuid=f"GPU-{name}", serial=name, model=model, health=health)


@pytest.fixture
def worn() -> Site:
    """Two clusters with GPUs of every level, one of them down."""
    site = Site()
    site.cluster("prod")
    site.cluster("lab", ClusterState.UNREACHABLE)
    site.read("prod", "a", card("1", SOUND), card("2", PENDING), card("3", FAILED), card("4"))
    site.read("prod", "b", card("5", Health(row_remap_failure=True, remapped_rows_uncorrectable=9), "NVIDIA A100"))
    site.read("prod", "b", time=1764000010.0, lost=(GpuRef("GPU-5", None),))
    site.read("lab", "c", card("6", Health(sram_threshold_exceeded=True)))
    return site


def names(rows: list[DegradedGpu]) -> list[str | None]:
    return [row.placement.gpu.serial for row in rows]


async def test_the_worst_gpus_come_first(worn: Site) -> None:
    survey = await survey_health(worn.collector)
    assert names(survey.degraded) == ["5", "3", "6", "2"]
    assert [one.level for one in survey.degraded] == [Level.REPLACE] * 3 + [Level.RESET]
    assert count_levels(survey.degraded) == survey.levels == {Level.REPLACE: 3, Level.RESET: 1}
    assert survey.models == ["NVIDIA A100", "NVIDIA H100"]


async def test_unseen_gpus_are_counted_separately(worn: Site) -> None:
    worn.fail("prod", "b", ReadFailure.TIMEOUT)
    worn.add("prod", "new", capacity=8)
    survey = await survey_health(worn.collector)
    assert (survey.gpus, survey.silent, survey.down, survey.unread, survey.never_read) == (6, 1, 1, 1, 8)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(), ["5", "3", "6", "2"]),
        (Filter(cluster="lab"), ["6"]),
        (Filter(model="NVIDIA A100"), ["5"]),
        (Filter(level=Level.RESET), ["2"]),
        (Filter(reason=Degradation.LOST), ["5"]),
        (Filter(mark=MarkKind.RMA), ["3", "1"]),
        (Filter(mark=MarkKind.RMA, level=Level.REPLACE), ["3"]),
        (Filter(mark=MarkKind.RMA, cluster="lab"), []),
        (Filter(mark=MarkKind.WATCH), []),
    ],
)
async def test_degraded_gpus_can_be_filtered(worn: Site, wanted: Filter, expected: list[str]) -> None:
    worn.collector.marks.replace(
        Mark(uuid=uuid, serial=serial, kind=MarkKind.RMA, set_at=1.0, set_by="ann")
        for uuid, serial in (("GPU-3", None), (None, "1"), ("GPU-none", None))
    )
    survey = await survey_health(worn.collector)
    assert names(await select(worn.collector, survey.degraded, wanted)) == expected


async def test_a_claimed_gpu_is_listed_at_its_first_place(worn: Site) -> None:
    worn.read("prod", "z", card("2", PENDING), time=1764000100.0, both=True)
    survey = await survey_health(worn.collector)
    assert [one.placement.place.node for one in survey.degraded if one.placement.gpu.serial == "2"] == ["a"]
    assert survey.gpus == 6


async def test_a_claimed_gpu_degraded_only_there_is_listed_there(worn: Site) -> None:
    worn.read("lab", "z", card("1", FAILED), time=1764000100.0, both=True)
    survey = await survey_health(worn.collector)
    assert [one.placement.place.node for one in survey.degraded if one.placement.gpu.serial == "1"] == ["z"]
    assert survey.levels == {Level.REPLACE: 3, Level.RESET: 1}
    assert survey.gpus == 6


async def test_its_own_mark_overrides_the_mark_of_its_serial(worn: Site) -> None:
    told: dict[str, Any] = {"set_at": 1.0, "set_by": "ann"}
    worn.collector.marks.replace(
        [Mark(serial="1", kind=MarkKind.RMA, **told), Mark(uuid="GPU-1", kind=MarkKind.WATCH, **told)]
    )
    survey = await survey_health(worn.collector)
    assert await select(worn.collector, survey.degraded, Filter(mark=MarkKind.RMA)) == []
    assert names(await select(worn.collector, survey.degraded, Filter(mark=MarkKind.WATCH))) == ["1"]


async def test_the_worst_of_a_node_counts(worn: Site) -> None:
    nodes = worn.inventory.nodes("prod")
    assert worst_in(nodes["a"]) is Level.REPLACE
    assert [one.placement.gpu.serial for one in degraded_in(nodes["a"])] == ["2", "3"]


@pytest.mark.parametrize("stored", [False, True])
async def test_the_start_time_comes_from_the_changes(worn: Site, tmp_path: Path, stored: bool) -> None:
    async with keeping(worn, tmp_path) if stored else nullcontext():
        gpus = worn.inventory.nodes("prod")["a"].gpus
        worn.read("prod", "a", msgspec.structs.replace(gpus[0], health=PENDING), *gpus[1:], time=1764000200.0)
        survey = await survey_health(worn.collector)
        times = await degraded_times(worn.collector, survey.degraded)
    assert times["GPU-1"] == 1764000200.0  # a change
    assert times["GPU-2"] == 1764000000.0  # the first that was read of it


async def test_the_fleet_is_not_walked_for_every_reader(worn: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    walks = 0

    async def counted(view: object) -> object:
        nonlocal walks
        walks += 1
        return await survey_health(worn.collector)

    monkeypatch.setattr("collector.views.health.survey_health", counted)
    monkeypatch.setattr("collector.views.health.REST_FACTOR", math.inf)  # the longest rest
    fleet = HealthSurveys(worn.collector)
    assert await fleet.survey() is await fleet.survey()
    assert walks == 1
