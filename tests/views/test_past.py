"""The past equals what the inventory was at each time."""

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collector.health import Health, degradations
from collector.inventory import Inventory
from collector.model import Gpu
from collector.store import GpuPosition, StoreSettings
from collector.store.checkpoints import keep
from collector.views.past import LookBack, NotRecordedError, look_back
from tests.support.recorded_fleet import RecordedFleet, collecting

CLUSTERS, NODES, GPUS = ("prod", "lab"), ("a", "b"), ("1", "2", "3")
HEALTHS = {
    "well": Health(row_remap_pending=False, ecc_dram_uncorrectable=0, fabric_state="Completed"),
    "worn": Health(row_remap_pending=True, ecc_dram_uncorrectable=1, fabric_state="Completed"),
    "worse": Health(row_remap_failure=True, row_remap_pending=False, ecc_dram_uncorrectable=7),
    "silent": None,
}
ALTERED: dict[str, dict[str, Any]] = {  # facts other than those of a GPU at first
    "other model": {"model": "other"},
    "no model": {"model": None},
    "other serial": {"serial": "serial-other"},
    "no serial": {"serial": None},
    "other chassis": {"chassis": "chassis-other", "module": "9"},
    "no seat": {"chassis": None, "module": None},
    "other seat": {"module": "8", "tray": "2", "slot": "3", "pci_bus_id": "00000000:3B:00.0"},
}
SEAT = ("tray", "slot", "module", "pci_bus_id")
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("read"),
            st.sampled_from(CLUSTERS),
            st.sampled_from(NODES),
            st.lists(st.sampled_from(GPUS), unique=True, max_size=3),
            st.sampled_from([*HEALTHS, *ALTERED, "lost"]),
        ),
        st.tuples(st.just("remove"), st.sampled_from(CLUSTERS), st.sampled_from(NODES)),
        st.tuples(st.just("remove cluster"), st.sampled_from(CLUSTERS)),
        st.tuples(st.just("commit")),
        st.tuples(st.just("keep")),
    ),
    min_size=1,
    max_size=25,
)
Snapshot = dict[tuple[str, str, str], tuple[Any, ...]]


def snapshot(inventory: Inventory) -> Snapshot:
    """What is settled of each GPU: the history records no claims."""
    return {
        (*one.place, one.gpu.uuid): (
            *(one.gpu.serial, one.gpu.chassis, one.since, one.degradations, one.gpu.model),
            {name: getattr(one.gpu, name) for name in SEAT},
        )
        for cluster in CLUSTERS
        for entry in inventory.nodes(cluster).values()
        for one in entry.placements()
        if not one.claim
    }


async def past(then: LookBack) -> Snapshot:
    found: Snapshot = {}
    after = None
    while page := await then.gpus(after=after, limit=2):
        for one in page:
            row = one.placement
            after = GpuPosition(row.cluster, row.node, row.uuid)
            assert after not in found
            seat = {name: getattr(row, name) for name in SEAT}
            reasons = one.condition and degradations(one.condition)
            found[after] = (row.serial, row.chassis, row.since, reasons, row.model, seat)
            assert one.confirmed is None or row.since <= one.confirmed <= then.time
    assert list(found) == sorted(found)
    return found


def act(fleet: RecordedFleet, step: tuple[Any, ...], time: float) -> None:
    match step:
        case ("read", cluster, node, gpus, form):
            lost = gpus[:1] if form == "lost" else []
            fleet.read(
                node,
                time,
                *(
                    Gpu(
                        uuid=f"GPU-{name}",
                        **{
                            "serial": f"serial-{name}",
                            "chassis": f"chassis-{cluster}-{node}",
                            "model": "NVIDIA H100",
                            "module": name,
                            "health": HEALTHS.get(form, HEALTHS["well"]),
                            **ALTERED.get(form, {}),
                        },
                    )
                    for name in gpus
                    if name not in lost
                ),
                cluster=cluster,
                lost=lost,
            )
        case ("remove", cluster, node):
            fleet.remove(node, time, cluster=cluster)
        case ("remove cluster", cluster):
            fleet.remove_cluster(cluster, time)


READ = ("read", "prod", "a", ["1", "2"], "well")


@settings(max_examples=40, deadline=None)
@example(steps=[READ, ("keep",), ("read", "prod", "b", ["1"], "well"), ("keep",), ("remove", "prod", "a"), ("keep",)])
@example(steps=[READ, ("keep",), ("read", "prod", "a", ["1", "2"], "other model"), ("keep",)])
@example(steps=[READ, ("remove cluster", "prod"), ("keep",), ("read", "lab", "a", ["1", "2"], "worn")])
@example(steps=[READ, *(("read", "prod", "a", ["1", "2"], form) for form in [*ALTERED, "well", *reversed(ALTERED)])])
@example(
    steps=[
        ("read", "prod", "a", ["1"], "no serial"),
        ("read", "prod", "a", ["1"], "no seat"),
        ("keep",),
        ("read", "prod", "b", ["1"], "no serial"),
        ("read", "prod", "b", ["1"], "other serial"),
    ]
)
@given(steps=steps)
def test_the_past_is_what_the_inventory_was_then(steps: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(check, steps, StoreSettings(url=f"sqlite://{Path(folder) / 'gpuid.db'}"))


async def check(steps: Any, store_settings: StoreSettings) -> None:
    async with collecting(store_settings) as fleet:
        then: dict[float, Snapshot] = {}
        forgotten = any(step[0] == "remove cluster" for step in steps)
        for number, step in enumerate(steps):
            time = 100.0 + 10 * number
            act(fleet, step, time)
            then[time + 9] = snapshot(fleet.inventory)
            if step[0] in ("commit", "keep"):
                assert await fleet.store.history_writer.flushed(30)
            if step[0] == "keep":
                await keep(fleet.store.database, math.inf, events=2)
        assert await fleet.store.history_writer.flushed(30)
        keep_seats(list(then.values()))
        filtered = list(then)[len(then) % 4 :: 4]  # they take their time
        for time, was in then.items():
            try:
                back = await look_back(fleet.store.past, time)
            except NotRecordedError:
                assert not was
                continue
            found = await past(back)
            unknown = {key for key, row in found.items() if row[3] is None}
            assert found == {key: (*row[:3], None, *row[4:]) if key in unknown else row for key, row in was.items()}
            assert not unknown or forgotten
            await agree_on_counts(back, was)
            if time in filtered:
                await agree_on_filters(back, was)


async def agree_on_counts(back: LookBack, was: Snapshot) -> None:
    gpus = Counter(cluster for cluster, _, _ in was)
    nodes = {(cluster, node) for cluster, node, _ in was}
    counts = await back.counts()
    assert {cluster: one.gpus for cluster, one in counts.items()} == gpus
    assert {cluster: one.nodes for cluster, one in counts.items()} == Counter(cluster for cluster, _ in nodes)
    assert [(one.cluster, one.node) for one in await back.nodes()] == sorted(nodes)
    models = Counter((cluster, row[4] or "") for (cluster, _, _), row in was.items())
    assert {(name, model): n for name, one in counts.items() for model, n in one.models.items()} == models


async def agree_on_filters(back: LookBack, was: Snapshot) -> None:
    for column, at in (("serial", 0), ("chassis", 1), ("model", 4)):
        values = {row[at] for row in was.values()} - {None}
        for value in (*values, "other", "serial-other", "chassis-other"):
            keys = sorted(key for key, row in was.items() if row[at] == value)
            where = {column: [value], "cluster": CLUSTERS}
            rows = await back.gpus(where, limit=2)
            assert [(*one.place, one.placement.uuid) for one in rows] == keys[:2]
            assert await back.total_gpus(where) == len(keys)
            nodes = sorted({key[:2] for key in keys})
            assert [tuple(one.place) for one in await back.nodes(where, limit=1)] == nodes[:1]
            assert await back.total_nodes(where) == len(nodes)


def keep_seats(snapshots: list[Snapshot]) -> None:
    """Let a seat that is no longer reported be the one known last: so the history has it."""
    known: dict[Any, str] = {}
    for was in snapshots:
        for key, row in was.items():
            for name in SEAT:
                if row[5][name] is None:
                    row[5][name] = known.get((key, row[2], name))
                else:
                    known[key, row[2], name] = row[5][name]
