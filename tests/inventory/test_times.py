"""What is recorded about a GPU never runs backwards, whatever happens to the clock."""

from hypothesis import given
from hypothesis import strategies as st

from collector.inventory import Inventory
from collector.model import Event, Fingerprint, Gpu, NodeInfo, Place, ReadFailure, Reading, Step

PLACES = [Place("east", "a"), Place("east", "b"), Place("west", "c")]
places = st.sampled_from(PLACES)
clocks = st.sampled_from([0.0, 1.0, 600.0, 86_400.0])  # how far the clock is ahead
steps = st.lists(
    st.tuples(
        clocks,
        st.one_of(
            st.tuples(st.just("read"), places, st.sets(st.sampled_from("12"))),
            st.tuples(st.sampled_from(["fail", "remove", "remove_cluster"]), places, st.just(frozenset[str]())),
        ),
    ),
    max_size=12,
)


def act(inventory: Inventory, what: str, place: Place, uuids: set[str], time: float) -> Step:
    match what:
        case "read":
            reading = Reading(
                cluster=place.cluster,
                node=NodeInfo(name=place.node),
                source="gpu-operator/pod",
                fingerprint=Fingerprint(pod_uid="uid", container_id="c", restarts=0, boot_id="b", capacity=8),
                time=time,
                driver_version="570",
                cuda_version="12.8",
                gpus=tuple(Gpu(uuid=f"GPU-{one}", serial=one) for one in sorted(uuids)),
            )
            return inventory.apply(reading)
        case "fail":
            return inventory.read_failed(place, ReadFailure.TIMEOUT, time)
        case "remove":
            return inventory.remove_node(place, time)
        case _:
            return inventory.remove_cluster(place.cluster, time)


@given(steps)
def test_no_gpu_leaves_before_it_arrived_or_returns_before_it_left(steps):
    inventory = Inventory()
    homes: dict[str, dict[Place, float]] = {}  # since when each GPU is where, by UUID
    left: dict[str, float] = {}
    for number, (ahead, (what, place, uuids)) in enumerate(steps):
        for change in act(inventory, what, place, uuids, 1000.0 + number + ahead).changes:
            uuid, here = change.gpu.uuid, homes.setdefault(change.gpu.uuid, {})
            away = not here
            if change.event in (Event.VANISHED, Event.MOVED):
                since = here.pop(change.previous or change.place, 0.0)
                assert change.time >= since
                left[uuid] = change.time
            if change.event is not Event.VANISHED:
                assert not away or change.time >= left.get(uuid, 0.0)
                here[change.place] = change.time


def test_gpus_that_left_while_the_clock_was_ahead_have_left_by_now():
    inventory = Inventory()
    act(inventory, "read", PLACES[0], {"1"}, 86_400.0)
    act(inventory, "remove", PLACES[0], set(), 86_500.0)
    inventory.cap_absences(1000.0)
    absent = inventory.absent_gpu("GPU-1")
    assert absent is not None
    assert (absent.place, absent.time) == (PLACES[0], 1000.0)
    (back,) = act(inventory, "read", PLACES[1], {"1"}, 1001.0).changes
    assert (back.event, back.time) == (Event.MOVED, 1001.0)
