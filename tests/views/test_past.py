"""The past is what was: compared with the inventory at each time."""

import math
import tempfile
from collections import Counter
from collections.abc import Callable
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
from tests.store.conftest import RecordedFleet, collecting

__all__ = ["collecting"]

CLUSTERS, NODES, GPUS = ("prod", "lab"), ("a", "b"), ("1", "2", "3")
HEALTHS = {
    "well": Health(row_remap_pending=False, ecc_dram_uncorrectable=0, fabric_state="Completed"),
    "worn": Health(row_remap_pending=True, ecc_dram_uncorrectable=1, fabric_state="Completed"),
    "worse": Health(row_remap_failure=True, row_remap_pending=False, ecc_dram_uncorrectable=7),
    "silent": None,
}
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("read"),
            st.sampled_from(CLUSTERS),
            st.sampled_from(NODES),
            st.lists(st.sampled_from(GPUS), unique=True, max_size=3),
            st.sampled_from([*HEALTHS, "other model", "lost"]),
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
        (*one.place, one.gpu.uuid): (one.gpu.serial, one.gpu.chassis, one.since, one.degradations)
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
            found[after] = (row.serial, row.chassis, row.since, one.condition and degradations(one.condition))
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
                        serial=f"serial-{name}",
                        chassis=f"chassis-{cluster}-{node}",
                        model="other" if form == "other model" else "NVIDIA H100",
                        health=HEALTHS.get(form, HEALTHS["well"]),
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
@given(steps=steps)
def test_the_past_is_what_the_inventory_was_then(steps: Any, collecting: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(check, steps, StoreSettings(url=f"sqlite://{Path(folder) / 'gpuid.db'}"), collecting)


async def check(steps: Any, store_settings: StoreSettings, collecting: Callable[..., Any]) -> None:
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
        for time, was in then.items():
            try:
                back = await look_back(fleet.store.past, time)
            except NotRecordedError:
                assert not was
                continue
            found = await past(back)
            unknown = {key for key, row in found.items() if row[3] is None}
            assert found == {key: (*row[:3], None) if key in unknown else row for key, row in was.items()}
            assert not unknown or forgotten
            await agree_on_counts(back, was)


async def agree_on_counts(back: LookBack, was: Snapshot) -> None:
    gpus = Counter(cluster for cluster, _, _ in was)
    nodes = {(cluster, node) for cluster, node, _ in was}
    counts = await back.counts()
    assert {cluster: one.gpus for cluster, one in counts.items()} == gpus
    assert {cluster: one.nodes for cluster, one in counts.items()} == Counter(cluster for cluster, _ in nodes)
    assert [(one.cluster, one.node) for one in await back.nodes()] == sorted(nodes)
    models = Counter[tuple[str, str]]()
    for one in await back.gpus():
        models[one.placement.cluster, one.placement.model or ""] += 1
    assert {(name, model): n for name, one in counts.items() for model, n in one.models.items()} == models
