"""Two collectors that read nodes at different times take turns in leading: the history is that of one fleet.

No placement ends before it begins, no GPU is in one place twice at once, and it is in two places at once only where a
collector saw both. What is recorded of a GPU never goes back in time.
"""

import contextlib
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from collector.app.catch_up import CatchUp
from collector.health import Health
from collector.inventory import Inventory
from collector.model import Event, Fingerprint, Gpu, GpuRef, NodeInfo, Place, Reading
from collector.store import Store, StoreSettings
from tests.support.health_replay import replayed_healths

PLACES = [Place(cluster, node) for cluster in ("c0", "c1") for node in ("n0", "n1", "n2")]
GPUS = [f"GPU-{number}" for number in range(3)]


class Fleet:
    """Where the GPUs are, in truth: each in one place, or in none."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.homes: dict[str, Place | None] = dict(zip(GPUS, PLACES, strict=False))
        self.serials = dict.fromkeys(GPUS, 0)
        self.wear = dict.fromkeys(GPUS, 0)
        self.lost: set[str] = set()

    def read(self, place: Place, observer: int, ahead: float = 0.0) -> Reading:
        """Return what an observer reads whose clock is `ahead` (seconds)."""
        now = self.time + ahead
        found = [uuid for uuid, home in self.homes.items() if home == place]
        return Reading(
            cluster=place.cluster,
            node=NodeInfo(name=place.node),
            source="x/y",
            fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
            time=now - observer * 0.013,  # the command has run somewhat before its answer is there
            driver_version=None,
            cuda_version=None,
            gpus=tuple(
                Gpu(
                    uuid=uuid,
                    serial=f"{uuid}-{self.serials[uuid]}",
                    health=Health(remapped_rows_correctable=self.wear[uuid], ecc_dram_uncorrectable=self.wear[uuid]),
                )
                for uuid in found
                if uuid not in self.lost
            ),
            lost=tuple(GpuRef(uuid) for uuid in found if uuid in self.lost),
            started=now,
            ended=now,
        )


class Observer:
    """A collector's inventory; it records while it leads."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.inventory = Inventory()
        self.store: Store | None = None
        self.touched: dict = {}
        self.verify: dict[Place, None] = {}

    def take(self, step) -> None:
        self.verify.update(dict.fromkeys(step.verify))
        self.touched.update(step.nodes)
        if self.store is not None:
            self.store.history_writer.append(step)

    def read(self, fleet: Fleet, place: Place, ahead: float = 0.0) -> None:
        self.verify.pop(place, None)
        fleet.time += 0.1
        self.take(self.inventory.apply(fleet.read(place, self.number, ahead)))

    def adopt(self, nodes) -> None:
        for recorded in nodes:
            step = self.inventory.adopt(recorded)
            if step.changes:
                self.take(step)

    async def lead(self, store: Store, fleet: Fleet) -> None:
        store.leadership.recording = False  # as if the other one had led on this very store
        store.leadership.standby.note(self.touched)
        self.store = store
        await CatchUp(store, self.inventory, self.adopt, clock=lambda: fleet.time).run()


async def run(steps, path: Path) -> None:
    fleet, observers = Fleet(), [Observer(0), Observer(1)]
    for observer in observers:
        for place in PLACES:
            observer.read(fleet, place)
    settings = StoreSettings(url=f"sqlite://{path}")
    remaining, leader, over = list(steps), 0, False
    while not over:
        async with Store.open(settings, clock=lambda: fleet.time) as store, anyio.create_task_group() as tasks:
            tasks.start_soon(store.history_writer.run)
            await observers[leader].lead(store, fleet)
            over = not happen(remaining, fleet, observers)
            assert await store.history_writer.flushed(30)
            observers[leader].store = None
            observers[leader].touched.clear()
            await check(store)
            tasks.cancel_scope.cancel()
        leader = 1 - leader


def happen(steps, fleet: Fleet, observers) -> bool:
    """Take steps until one is the other's turn to lead, which is True, or there are no more."""
    while steps:
        kind, *what = steps.pop(0)
        if kind == "move":
            fleet.time += 1
            fleet.homes[what[0]] = what[1]
        elif kind == "alter":
            fleet.time += 1
            fleet.serials[what[0]] += 1
        elif kind == "wear":
            fleet.time += 1
            fleet.wear[what[0]] = max(0, fleet.wear[what[0]] + what[1])
        elif kind == "lose":
            fleet.time += 1
            fleet.lost ^= {what[0]}
        elif kind == "read":
            observers[what[0]].read(fleet, what[1])
        elif kind == "gone":
            fleet.time += 0.1
            one = observers[what[0]]
            one.take(one.inventory.remove_node(what[1], fleet.time))
        elif kind == "verify":
            for place in list(observers[what[0]].verify):
                observers[what[0]].read(fleet, place)
        else:
            return True
    return False


async def check(store: Store) -> None:
    changes = sorted(await store.history.changes(limit=100_000), key=lambda change: change.id)
    for uuid in GPUS:
        placements = sorted(await store.history.where(uuid, limit=10_000), key=lambda one: one.id)
        assert all(one.until is None or one.since <= one.until for one in placements), placements
        spans = recorded_spans([change for change in changes if change.uuid == uuid])
        assert len(spans) == len(placements)
        for number, (one, span) in enumerate(zip(placements, spans, strict=True)):
            assert (one.cluster, one.node) == span[0], (placements, spans)
            for other, later in list(zip(placements, spans, strict=True))[number + 1 :]:
                at_once = span[2] is None or later[1] < span[2]  # both were recorded as present
                if not at_once:
                    assert one.until is not None
                    assert one.until <= other.since, (one, other)
        times = [change.time for change in changes if change.uuid == uuid]
        assert times == sorted(times), [change for change in changes if change.uuid == uuid]
    replayed_healths(changes)  # each change begins with what the one before ended with


def recorded_spans(changes):
    """Return place, and the number of the changes that began and ended it, for each placement of one GPU."""
    spans: list[list] = []
    for number, change in enumerate(changes):
        here = (change.cluster, change.node)
        if change.event == Event.MOVED:
            for span in spans:
                span[2] = number if span[2] is None else span[2]
        elif change.event == Event.VANISHED:
            (span,) = [span for span in spans if span[0] == here and span[2] is None]
            span[2] = number
        if change.event in (Event.MOVED, Event.APPEARED):
            assert not [span for span in spans if span[0] == here and span[2] is None], "twice in one place"
            spans.append([here, number, None])
    return spans


who, where = st.sampled_from([0, 1]), st.sampled_from(PLACES)
schedule = st.lists(
    st.one_of(
        st.tuples(st.just("move"), st.sampled_from(GPUS), st.sampled_from([*PLACES, None])),
        st.tuples(st.just("alter"), st.sampled_from(GPUS)),
        st.tuples(st.just("wear"), st.sampled_from(GPUS), st.sampled_from([1, 1, -1])),
        st.tuples(st.just("lose"), st.sampled_from(GPUS)),
        st.tuples(st.just("read"), who, where),
        st.tuples(st.just("read"), who, where),
        st.tuples(st.just("verify"), who),
        st.tuples(st.just("gone"), who, where),
        st.tuples(st.just("take over")),
    ),
    max_size=40,
)


def chosen(seed: int):
    """Return a random schedule in which nodes are read often enough for most moves to be noticed."""
    rng = random.Random(seed)
    steps = []
    for _ in range(rng.randrange(5, 40)):
        kind = rng.choice(
            ["move", "alter", "wear", "lose", "read", "read", "read", "verify", "verify", "gone", "take over"]
        )
        steps.append(
            {
                "move": ("move", rng.choice(GPUS), rng.choice([*PLACES, *PLACES, None])),
                "alter": ("alter", rng.choice(GPUS)),
                "wear": ("wear", rng.choice(GPUS), rng.choice([1, 1, -1])),
                "lose": ("lose", rng.choice(GPUS)),
                "read": ("read", rng.randrange(2), rng.choice(PLACES)),
                "verify": ("verify", rng.randrange(2)),
                "gone": ("gone", rng.randrange(2), rng.choice(PLACES)),
                "take over": ("take over",),
            }[kind]
        )
    return steps


def try_out(steps) -> None:
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(run, steps, Path(folder) / "gpuid.db")


LOST_THEN_GONE = [("lose", "GPU-2"), ("gone", 1, PLACES[2]), ("read", 0, PLACES[2]), ("take over",)]
WORN_THEN_GONE = [("wear", "GPU-2", 1), *LOST_THEN_GONE[1:], ("read", 1, PLACES[2])]
TO_AND_FRO = [
    ("move", "GPU-0", PLACES[1]),
    ("read", 0, PLACES[1]),
    ("move", "GPU-0", PLACES[0]),
    ("wear", "GPU-0", 1),
    ("read", 0, PLACES[0]),
    ("gone", 0, PLACES[0]),
]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(steps=LOST_THEN_GONE)
@example(steps=WORN_THEN_GONE)
@example(steps=TO_AND_FRO)
@given(steps=schedule)
def test_takeovers_write_one_history(steps):
    try_out(steps)


@pytest.mark.parametrize("seed", range(20))
def test_many_seeds_write_one_history(seed):
    try_out(chosen(seed))


@contextlib.asynccontextmanager
async def recording(fleet: Fleet, path: Path, *observers: Observer) -> AsyncIterator[Store]:
    """Yield a store that records, after observers have read every node."""
    for observer in observers:
        for place in PLACES:
            observer.read(fleet, place)
    async with (
        Store.open(StoreSettings(url=f"sqlite://{path}/gpuid.db"), clock=lambda: fleet.time) as store,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(store.history_writer.run)
        yield store
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("back", [PLACES[1], PLACES[5]], ids=["same node", "other node"])
@pytest.mark.parametrize("then", ["stays", "leaves", "is only the standby's"])
async def test_what_a_standby_saw_while_its_clock_was_ahead_is_not_recorded_as_in_the_future(
    then: str, back: Place, tmp_path: Path
) -> None:
    fleet, leader, standby = Fleet(), Observer(0), Observer(1)
    async with recording(fleet, tmp_path, leader, standby) as store:
        await leader.lead(store, fleet)
        fleet.homes["GPU-0"] = PLACES[3]
        for place in (PLACES[0], PLACES[3]):
            if then != "is only the standby's":
                leader.read(fleet, place)
            standby.read(fleet, place, ahead=86_400)
        if then == "leaves":
            fleet.homes["GPU-0"] = None
            for observer in (leader, standby):
                observer.read(fleet, PLACES[3])
        assert await store.history_writer.flushed(30)
        leader.store = None
        fleet.time += 60
        await standby.lead(store, fleet)
        fleet.homes["GPU-0"] = back
        for place in (PLACES[3], back):
            standby.read(fleet, place)
        assert await store.history_writer.flushed(30)
        found = sorted(await store.history.changes(limit=100), key=lambda change: change.id)
        assert (found[-1].cluster, found[-1].node, found[-1].uuid) == (*back, "GPU-0")
        assert max(change.time for change in found) <= fleet.time
        await check(store)


@pytest.mark.anyio
async def test_what_a_new_leader_reads_while_the_store_responds_keeps_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, leader, standby = Fleet(), Observer(0), Observer(1)
    async with recording(fleet, tmp_path, leader, standby) as store:
        await leader.lead(store, fleet)
        assert await store.history_writer.flushed(30)
        leader.store = None
        absent, began = store.absent, fleet.time

        async def slow():
            fleet.time += 20
            fleet.homes["GPU-0"] = PLACES[1]
            for place in PLACES[:2]:
                standby.read(fleet, place)
            return await absent()

        monkeypatch.setattr(store, "absent", slow)
        await standby.lead(store, fleet)
        assert await store.history_writer.flushed(30)
        (moved,) = [one for one in await store.history.changes(limit=100) if one.time > began]
        assert (moved.uuid, moved.event, moved.cluster, moved.node) == ("GPU-0", Event.MOVED, *PLACES[1])
        assert moved.time > began + 19
