"""History and inventory agree after any sequence of readings, removals and restarts."""

import tempfile
from pathlib import Path

import anyio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collector.inventory import Inventory
from collector.model import Event, Gpu, Place
from collector.store import StoreSettings

# A fleet small enough that GPUs meet: nodes of two clusters, GPUs that wander, and one whose facts alter.
CLUSTERS, NODES, GPUS = ("prod", "lab"), ("a", "b"), ("1", "2", "3")

gpus = st.lists(st.sampled_from(GPUS), unique=True, max_size=3)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("read"),
            st.sampled_from(CLUSTERS),
            st.sampled_from(NODES),
            gpus,
            st.sampled_from([0, 0, 0, -15, 5]),  # a reading may be late
            st.booleans(),
        ),
        st.tuples(st.just("remove"), st.sampled_from(CLUSTERS), st.sampled_from(NODES)),
        st.tuples(st.just("restart")),
        st.tuples(st.just("commit")),
    ),
    max_size=25,
)


def homes(inventory: Inventory) -> set[tuple[str | None, str, str, float]]:
    """Where the GPUs are, as far as that is settled: the history does not record claims."""
    return {
        (gpu.uuid, *entry.place, since)
        for cluster in CLUSTERS
        for entry in inventory.nodes(cluster).values()
        for gpu, since in zip(entry.gpus, entry.since, strict=True)
        if gpu.uuid not in entry.claims
    }


def known(inventory: Inventory) -> dict:
    return {
        "nodes": {
            place: inventory.node(place) for place in (Place(cluster, node) for cluster in CLUSTERS for node in NODES)
        },
        "conflicts": [inventory.conflicts(cluster) for cluster in CLUSTERS],
        "absent": dict(inventory.absent()),
        "claims": [set(inventory.claimed(cluster)) for cluster in CLUSTERS],
        "found": [
            sorted((p.place, p.since) for p in inventory.find(serial=f"serial-{gpu}", uuid=None)) for gpu in GPUS
        ],
    }


def replayed(changes) -> set[tuple[str, str, str, float]]:
    """What a consumer of the changes alone holds for the inventory."""
    held: dict[tuple[str, str, str], float] = {}
    for change in changes:
        key = (change.uuid, change.cluster, change.node)
        match change.event:
            case Event.APPEARED:
                held[key] = change.time
            case Event.MOVED:
                held = {other: since for other, since in held.items() if other[0] != change.uuid}
                held[key] = change.time
            case Event.VANISHED:
                del held[key]
    return {(*key, since) for key, since in held.items()}


CLAIM = [("read", "prod", "a", ["1"], 0, False), ("read", "prod", "b", ["1"], 0, False)]
MOVE = [*CLAIM, ("read", "prod", "a", [], 0, False)]
BACK = [("read", "prod", "a", ["1"], 0, False), ("remove", "prod", "a"), ("read", "prod", "b", ["1"], 0, False)]
SETTLED = [*CLAIM, ("remove", "prod", "a"), ("restart",)]


@settings(max_examples=60, deadline=None)
@example(steps=SETTLED)
@given(steps=steps)
def test_after_any_sequence(steps, collecting):
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(check, steps, StoreSettings(url=f"sqlite://{Path(folder) / 'gpuid.db'}"), collecting)


@settings(max_examples=30, deadline=None)
@example(steps=CLAIM, often=True)
@example(steps=BACK, often=True)
@example(steps=MOVE, often=True)
@example(steps=MOVE, often=False)
@given(steps=steps, often=st.booleans())
def test_after_any_sequence_whose_steps_are_all_lost(steps, often, collecting):
    """Past the limit of what may wait in memory, the outcome alone is recorded: of all steps, or `often` of each."""
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(outcome, steps, often, StoreSettings(url=f"sqlite://{Path(folder) / 'gpuid.db'}"), collecting)


async def outcome(steps, often, store_settings, collecting):
    async with collecting(store_settings, max_pending=-1) as one:
        for number, step in enumerate(steps):
            time = 100.0 + 10 * number
            if step[0] == "read":
                reported = (gpu(name, step[5]) for name in step[3])
                one.read(step[2], time + step[4], *reported, cluster=step[1], both=True)
            elif step[0] == "remove":
                one.remove(step[2], time, cluster=step[1])
            if often or step[0] in ("restart", "commit"):
                assert await one.store.history_writer.flushed(10)
        assert await one.store.history_writer.flushed(10)
        placements = [p for node in NODES for p in await one.store.history.node(node, limit=10_000)]
        found = [(p.uuid, p.cluster, p.node, p.since) for p in placements if p.until is None]
        assert sorted(found) == sorted(homes(one.inventory))


async def check(steps, store_settings, collecting):
    time, expected, emitted, remaining = 100.0, None, 0, list(steps)
    while True:
        async with collecting(store_settings) as one:
            if expected is not None:
                assert known(one.inventory) == expected
            while remaining:
                step = remaining.pop(0)
                time += 10
                if step[0] == "read":
                    _, cluster, node, found, late, altered = step
                    reported = (gpu(name, altered) for name in found)
                    one.read(node, time + late, *reported, cluster=cluster, both=True)
                elif step[0] == "remove":
                    one.remove(step[2], time, cluster=step[1])
                elif step[0] == "commit":
                    assert await one.store.history_writer.flushed(10)
                else:
                    break
            else:
                step = None
            assert await one.store.history_writer.flushed(10)
            emitted += len(one.changes)
            expected = known(one.inventory)
            history = one.store.history
            changes = await history.changes(limit=10_000)
            by_id = sorted(changes, key=lambda change: change.id)
            placements = [p for node in NODES for p in await history.node(node, limit=10_000)]
            assert {(p.uuid, p.cluster, p.node, p.since) for p in placements if p.until is None} == homes(one.inventory)
            assert sum(p.until is None for p in placements) == len(homes(one.inventory))
            assert all(p.until >= p.since for p in placements if p.until is not None)
            assert replayed(by_id) == homes(one.inventory)
            assert len(changes) == emitted
        if step is None:
            return


def gpu(name: str, altered: bool) -> Gpu:
    return Gpu(uuid=f"GPU-{name}", serial=f"serial-{name}", vbios="2" if altered else "1")
