"""Only a GPU that is degraded or worn has series of its health; a healthy fleet's scrape has none."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.exposition.families import NODE_FAMILIES, render
from collector.health import Degradation, Health
from collector.model import Gpu, NodeInfo, NodeState, Place, Unseen
from tests.exposition.test_exposition import families

pytestmark = pytest.mark.anyio

HEALTHY = Health(
    remapped_rows_correctable=0,
    remapped_rows_uncorrectable=0,
    remapped_rows_inactive=0,
    row_remap_pending=False,
    row_remap_failure=False,
    ecc_sram_correctable=0,
    ecc_sram_uncorrectable=0,
    ecc_dram_correctable=0,
    ecc_dram_uncorrectable=0,
    sram_threshold_exceeded=False,
    recovery_action="None",
    fabric_state="Completed",
    fabric_status="Success",
    fabric_health="Healthy",
    inforom="G520.0200.00.05",
)
GPU = Gpu(uuid="GPU-a", serial="1652923034028", model="NVIDIA H100 80GB HBM3")
NEW = ("gpuid_gpu_degraded", "gpuid_gpu_remapped_rows", "gpuid_gpu_retired_pages", "gpuid_gpu_ecc_errors")
ID = 'cluster="c",node="n",serial="1652923034028",uuid="GPU-a"'
NOW = 1764000000.0


def node(*gpus: Gpu, **facts: Any) -> NodeState:
    return NodeState(
        place=Place("c", "n"), node=NodeInfo(name="n"), gpus=gpus, since=(NOW,) * len(gpus), **{"time": NOW, **facts}
    )


def health_lines(state: NodeState) -> list[str]:
    """The lines of the families of health, and those of no other."""
    blocks = render(state, (), "cluster")
    assert len(blocks) == len(NODE_FAMILIES)
    return [
        line
        for family, block in zip(NODE_FAMILIES, blocks, strict=True)
        for line in block.decode().splitlines()
        if family.name in NEW
    ]


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        (None, []),
        (HEALTHY, []),
        (
            msgspec.structs.replace(HEALTHY, row_remap_failure=True, remapped_rows_uncorrectable=9),
            [
                f'gpuid_gpu_degraded{{{ID},reason="row_remap_failure",level="replace"}} 1',
                f'gpuid_gpu_remapped_rows{{{ID},kind="uncorrectable"}} 9',
            ],
        ),
        (
            Health(
                remapped_rows_correctable=1,
                remapped_rows_uncorrectable=2,
                remapped_rows_inactive=3,
                row_remap_pending=True,
                unrepairable_memory=True,
            ),
            [
                f'gpuid_gpu_degraded{{{ID},reason="repair_pending",level="replace"}} 1',
                f'gpuid_gpu_degraded{{{ID},reason="row_remap_pending",level="reset"}} 1',
                f'gpuid_gpu_remapped_rows{{{ID},kind="correctable"}} 1',
                f'gpuid_gpu_remapped_rows{{{ID},kind="uncorrectable"}} 2',
                f'gpuid_gpu_remapped_rows{{{ID},kind="inactive"}} 3',
            ],
        ),
        (
            Health(retired_pages_single_bit=4, retired_pages_double_bit=5),
            [
                f'gpuid_gpu_retired_pages{{{ID},cause="single_bit"}} 4',
                f'gpuid_gpu_retired_pages{{{ID},cause="double_bit"}} 5',
            ],
        ),
        (
            Health(ecc_sram_correctable=1, ecc_sram_uncorrectable=2, ecc_dram_correctable=3, ecc_dram_uncorrectable=4),
            [
                f'gpuid_gpu_ecc_errors{{{ID},memory="sram",kind="correctable"}} 1',
                f'gpuid_gpu_ecc_errors{{{ID},memory="sram",kind="uncorrectable"}} 2',
                f'gpuid_gpu_ecc_errors{{{ID},memory="dram",kind="correctable"}} 3',
                f'gpuid_gpu_ecc_errors{{{ID},memory="dram",kind="uncorrectable"}} 4',
            ],
        ),
        (
            Health(recovery_action='Reset"} 1\ngpuid_gpu_info{uuid="', fabric_health="\udcff\x00"),
            [
                f'gpuid_gpu_degraded{{{ID},reason="recovery_action",level="reset"}} 1',
                f'gpuid_gpu_degraded{{{ID},reason="fabric",level="reset"}} 1',
            ],
        ),
    ],
    ids=["unknown", "healthy", "failed", "pending", "retired", "ecc", "hostile"],
)
def test_a_node_has_the_expected_health_series(health: Health | None, expected: list[str]) -> None:
    assert health_lines(node(msgspec.structs.replace(GPU, health=health))) == expected


def test_a_lost_gpu_is_degraded_and_keeps_its_counts() -> None:
    gpu = msgspec.structs.replace(GPU, health=Health(ecc_dram_uncorrectable=2))
    assert health_lines(node(gpu, unseen=(Unseen("GPU-a", NOW, lost=True),))) == [
        f'gpuid_gpu_degraded{{{ID},reason="lost",level="reset"}} 1',
        f'gpuid_gpu_ecc_errors{{{ID},memory="dram",kind="uncorrectable"}} 2',
    ]
    assert len(health_lines(node(gpu, unseen=(Unseen("GPU-a", NOW, lost=False),)))) == 1


def test_growing_errors_are_judged_by_the_last_reading_that_found_the_gpu() -> None:
    gpu = msgspec.structs.replace(GPU, ecc_growth=NOW)
    growing = f'gpuid_gpu_degraded{{{ID},reason="uncorrectable_ecc_growing",level="reset"}} 1'
    later = NOW + 8 * 86400
    assert health_lines(node(gpu)) == [growing]
    assert health_lines(node(gpu, time=later)) == []
    assert health_lines(node(gpu, time=later, unseen=(Unseen("GPU-a", NOW, lost=False),))) == [growing]


def test_the_series_agree_with_the_placements() -> None:
    gpus = [msgspec.structs.replace(GPU, uuid=f"GPU-{n}", ecc_growth=NOW if n % 2 else None) for n in range(4)]
    state = node(*gpus, unseen=(Unseen("GPU-1", NOW - 1, lost=True), Unseen("GPU-2", NOW, lost=False)))
    degraded = [line for line in health_lines(state) if "degraded" in line]
    for placement in state.placements():
        lines = [line for line in degraded if f'uuid="{placement.gpu.uuid}"' in line]
        assert [line.split('reason="')[1].split('"')[0] for line in lines] == list(placement.degradations)
        assert not lines or f'level="{placement.level}"' in lines[0]


async def test_a_healthy_fleet_adds_no_health_series(make_bench: Any) -> None:
    scrapes = []
    for health in (None, HEALTHY):
        bench = make_bench()
        for number in range(3):
            gpus = [msgspec.structs.replace(GPU, uuid=f"GPU-{number}-{n}", health=health) for n in range(8)]
            bench.read("prod", f"n{number}", *gpus)
        body = await bench.text()
        assert not any(name in body for name in NEW)  # no header either
        scrapes.append(body[: body.index("# HELP gpuid_cluster_up")] if "gpuid_cluster_up" in body else body)
    nodes = [[line for line in body.splitlines() if "gpuid_gpu_" in line or "gpuid_node_" in line] for body in scrapes]
    assert nodes[0] == nodes[1]


async def test_a_gpu_that_recovers_loses_its_series_and_the_family_its_header(bench: Any) -> None:
    def publish(health: Health) -> None:
        state = node(msgspec.structs.replace(GPU, health=health))
        bench.exposition.update({state.place: state})

    publish(Health(row_remap_pending=True))
    text = await bench.text()
    assert "# TYPE gpuid_gpu_degraded gauge\n" in text
    assert len(families(text)["gpuid_gpu_degraded"]) == 1
    publish(Health(row_remap_pending=False))
    assert "gpuid_gpu_degraded" not in await bench.text()


texts = st.none() | st.text(max_size=20)


@given(
    serial=texts,
    health=st.builds(Health, recovery_action=texts, fabric_state=texts, fabric_status=texts, fabric_health=texts),
    lost=st.booleans(),
)
def test_text_from_a_node_cannot_break_out_of_its_label(serial: str | None, health: Health, lost: bool) -> None:
    gpu = msgspec.structs.replace(GPU, serial=serial, health=health)
    state = node(gpu, unseen=(Unseen("GPU-a", NOW, lost=True),) if lost else ())
    lines = render(state, (), "cluster")[[family.name for family in NODE_FAMILIES].index("gpuid_gpu_degraded")]
    reasons = {f'reason="{reason}"' for reason in Degradation}
    for line in lines.decode().split("\n")[:-1]:
        assert line.startswith('gpuid_gpu_degraded{cluster="c",node="n",serial="')
        assert line.endswith('"} 1')
        assert line.split(",")[-2] in reasons
