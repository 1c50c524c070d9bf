"""History and inventory agree after any sequence of readings, removals and restarts."""

import tempfile
from pathlib import Path

import anyio
import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collector.health import Health
from collector.inventory import Inventory
from collector.model import Event, Gpu, Place
from collector.store import StoreSettings
from tests.support.health_replay import Key, replayed_healths

# A fleet small enough that GPUs meet: nodes of two clusters, GPUs that wander, and one whose facts alter.
CLUSTERS, NODES, GPUS = ("prod", "lab"), ("a", "b"), ("1", "2", "3")
# What the GPUs of a reading say of themselves; "lost" ones do not respond.
FORMS = ("plain", "vbios", "silent", "silent", "worn", "worse", "better", "less", "lost")

HEALTHS = {
    "better": Health(row_remap_pending=False, remapped_rows_correctable=0, ecc_dram_uncorrectable=0),
    "worn": Health(row_remap_pending=True, remapped_rows_correctable=1, ecc_dram_uncorrectable=1),
    "worse": Health(row_remap_failure=True, remapped_rows_correctable=2, ecc_dram_uncorrectable=7),
    "less": Health(ecc_dram_uncorrectable=7),
    "silent": None,
}
gpus = st.lists(st.sampled_from(GPUS), unique=True, max_size=3)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("read"),
            st.sampled_from(CLUSTERS),
            st.sampled_from(NODES),
            gpus,
            st.sampled_from([0, 0, 0, -15, 5]),  # a reading may be late
            st.sampled_from(FORMS),
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
        "facts": {
            uuid: (dict(facts.last_known), facts.health, facts.ecc_growth)
            for uuid in inventory.absent()
            if (facts := inventory.facts(uuid))
        },
        "lost": {uuid for uuid in inventory.absent() if (one := inventory.last_condition(uuid)) and one.lost},
        "claims": [set(inventory.claimed(cluster)) for cluster in CLUSTERS],
        "found": [
            sorted((p.place, p.since) for p in inventory.find(serial=f"serial-{gpu}", uuid=None)) for gpu in GPUS
        ],
    }


def last_known(inventory: Inventory) -> dict[tuple[str, str, str], tuple]:
    """What is known of each GPU that is settled, and what of it is merely last known."""
    return {
        (gpu.uuid, *entry.place): (gpu.serial, gpu.chassis, gpu.model, gpu.last_known_facts)
        for cluster in CLUSTERS
        for entry in inventory.nodes(cluster).values()
        for gpu in entry.gpus
        if gpu.uuid not in entry.claims
    }


def recorded(placements) -> dict[tuple[str, str, str], tuple]:
    return {
        (p.uuid, p.cluster, p.node): (p.serial, p.chassis, p.model, p.last_known) for p in placements if p.until is None
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


def healths(inventory: Inventory) -> dict[Key, dict[str, object]]:
    """What has something to say of the health of each GPU that is settled."""
    return {
        (gpu.uuid, *entry.place): {
            field: value
            for field, value in (*msgspec.structs.asdict(gpu.health or Health()).items(), ("lost", gpu.uuid in lost))
            if value
        }
        for cluster in CLUSTERS
        for entry in inventory.nodes(cluster).values()
        for lost in [entry.lost_uuids]
        for gpu in entry.gpus
        if gpu.uuid not in entry.claims
    }


def agree_on_healths(inventory: Inventory, changes) -> None:
    replay = replayed_healths(changes)
    found = healths(inventory)
    assert {key: found[key] for key in replay} == replay


CLAIM = [("read", "prod", "a", ["1"], 0, "plain"), ("read", "prod", "b", ["1"], 0, "plain")]
MOVE = [*CLAIM, ("read", "prod", "a", [], 0, "plain")]
AWAY = [("read", "prod", "a", ["1"], 0, "plain"), ("remove", "prod", "a"), ("read", "prod", "b", ["1"], 0, "plain")]
SILENT = [("read", "prod", "a", ["1"], 0, "plain"), ("read", "prod", "a", ["1"], 0, "silent")]
BACK = [*SILENT, ("remove", "prod", "a"), ("restart",), ("read", "prod", "a", ["1"], 0, "silent"), ("restart",)]
ELSEWHERE = [*SILENT[:1], ("remove", "prod", "a"), ("restart",), ("read", "prod", "b", ["1"], 0, "silent")]
WORN = [("read", "prod", "a", ["1"], 0, "worn"), ("read", "prod", "a", ["1"], 0, "worse")]
CARRIED = [*WORN, ("remove", "prod", "a"), ("restart",), ("read", "lab", "b", ["1"], 0, "less"), ("restart",)]
UNANSWERED = [*WORN, ("read", "prod", "a", ["1"], 0, "lost"), ("restart",), ("remove", "prod", "a"), ("restart",)]
ANSWERED = [*UNANSWERED, ("read", "prod", "b", ["1"], 0, "better")]
OUTWORN = [*WORN, ("remove", "prod", "a"), ("read", "prod", "b", ["1"], 0, "worse")]  # worse when it left
BOTH = [*CLAIM, *CLAIM[:1], ("read", "prod", "b", ["1"], 0, "worn"), ("read", "prod", "a", [], 0, "plain")]
SETTLED = [*CLAIM, ("remove", "prod", "a"), ("restart",)]


@settings(max_examples=60, deadline=None)
@example(steps=SETTLED)
@example(steps=BACK)
@example(steps=ELSEWHERE)
@example(steps=CARRIED)
@example(steps=ANSWERED)
@example(steps=BOTH)
@given(steps=steps)
def test_stores_agree_after_any_sequence(steps, collecting):
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(check, steps, StoreSettings(url=f"sqlite://{Path(folder) / 'gpuid.db'}"), collecting)


@settings(max_examples=30, deadline=None)
@example(steps=CLAIM, often=True)
@example(steps=AWAY, often=True)
@example(steps=MOVE, often=True)
@example(steps=MOVE, often=False)
@example(steps=[*SILENT, SILENT[0], SILENT[1]], often=False)
@example(steps=BACK, often=True)
@example(steps=CARRIED, often=True)
@example(steps=ANSWERED, often=True)
@example(steps=ANSWERED[:3], often=False)
@example(steps=[WORN[0], ("commit",), *OUTWORN[1:3], ("commit",), OUTWORN[3]], often=False)
@example(steps=BOTH, often=True)
@given(steps=steps, often=st.booleans())
def test_stores_agree_after_losing_all_steps(steps, often, collecting):
    """Past the limit of what may wait in memory, the outcome alone is recorded: of all steps, or `often` of each."""
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(outcome, steps, often, StoreSettings(url=f"sqlite://{Path(folder) / 'gpuid.db'}"), collecting)


async def outcome(steps, often, store_settings, collecting):
    async with collecting(store_settings, max_pending=-1) as one:
        for number, step in enumerate(steps):
            time = 100.0 + 10 * number
            if step[0] == "read":
                read(one, step, time)
            elif step[0] == "remove":
                one.remove(step[2], time, cluster=step[1])
            if often or step[0] in ("restart", "commit"):
                assert await one.store.history_writer.flushed(10)
        assert await one.store.history_writer.flushed(10)
        placements = [p for node in NODES for p in await one.store.history.node(node, limit=10_000)]
        found = [(p.uuid, p.cluster, p.node, p.since) for p in placements if p.until is None]
        assert sorted(found) == sorted(homes(one.inventory))
        assert recorded(placements) == last_known(one.inventory)
        changes = await one.store.history.changes(limit=10_000)
        agree_on_healths(one.inventory, sorted(changes, key=lambda change: change.id))


def read(fleet, step, time: float) -> None:
    _, cluster, node, found, late, form = step
    reported = () if form == "lost" else tuple(gpu(name, form) for name in found)
    lost = found if form == "lost" else ()
    fleet.read(node, time + late, *reported, cluster=cluster, both=True, lost=lost)


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
                    read(one, step, time)
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
            assert recorded(placements) == last_known(one.inventory)
            assert [bool(change.changes) for change in changes] == [
                change.event in ("altered", "health") for change in changes
            ]
            agree_on_healths(one.inventory, by_id)
            seen = {(gpu, p.place) for gpu in GPUS for p in one.inventory.find(serial=f"serial-{gpu}") if not p.claim}
            found = {
                (gpu, Place(p.cluster, p.node))
                for gpu in GPUS
                for p in await history.where(f"serial-{gpu}", limit=10_000)
                if p.until is None
            }
            assert found == seen  # searched in the inventory and in the history, one serial is in the same places
            assert len(changes) == emitted
        if step is None:
            return


def gpu(name: str, form: str) -> Gpu:
    serial, chassis = (None, None) if form == "silent" else (f"serial-{name}", "chassis")
    vbios = "2" if form == "vbios" else "1"
    health = HEALTHS.get(form, HEALTHS["better"])
    return Gpu(uuid=f"GPU-{name}", serial=serial, chassis=chassis, gpu_part_number=serial, vbios=vbios, health=health)
