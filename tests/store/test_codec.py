"""How nodes and records are encoded."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from collector.health import HEALTH_FIELDS, Health
from collector.inventory import Inventory
from collector.inventory.last_known import facts_of
from collector.model import (
    KEPT_FIELDS,
    FieldChange,
    Fingerprint,
    Gpu,
    LastReport,
    NodeInfo,
    NodeState,
    Place,
    Reading,
    Sharing,
    SilentGpu,
    SinkRecord,
    Unseen,
    changes_object,
    field_changes,
)
from collector.store.codec import (
    decode_changes,
    decode_facts,
    decode_last_known,
    decode_node,
    decode_records,
    encode_changes,
    encode_facts,
    encode_last_known,
    encode_node,
    encode_records,
    readings_records,
)

texts = st.none() | st.text(max_size=5)
times = st.floats(0, 4e9)
marks = st.lists(
    st.builds(LastReport, st.sampled_from(KEPT_FIELDS), times), max_size=3, unique_by=lambda one: one.field
)
healths = st.builds(
    Health,
    ecc_sram_correctable=st.none() | st.integers(0, 3),
    ecc_dram_uncorrectable=st.none() | st.integers(0, 2**40),
    row_remap_pending=st.none() | st.booleans(),
    recovery_action=texts,
)
gpus = st.builds(
    Gpu,
    **{
        field: {
            "uuid": st.text(max_size=5),
            "minor_number": st.none() | st.integers(0, 99),
            "mig": st.none() | st.booleans(),
            "virtual": st.booleans(),
            "multi_gpu_board": st.booleans(),
            "last_known": marks.map(tuple),
            "health": st.none() | healths,
            "ecc_growth": st.none() | times,
        }.get(field, texts)
        for field in Gpu.__struct_fields__
    },
)
nodes = st.builds(
    NodeInfo,
    name=st.text(max_size=5),
    provider_id=st.text(max_size=5),
    boot_id=st.text(max_size=5),
    capacity=st.none() | st.integers(0, 16),
    allocatable=st.none() | st.integers(0, 16),
    labels=st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=2).map(tuple),
)
fingerprints = st.builds(
    Fingerprint,
    pod_uid=st.text(max_size=5),
    container_id=st.text(max_size=5),
    restarts=st.integers(0, 9),
    boot_id=st.text(max_size=5),
    capacity=st.none() | st.integers(0, 16),
)
sharings = st.builds(
    Sharing,
    units=st.integers(0, 99),
    labelled=st.integers(0, 9),
    most=st.integers(0, 16),
    shares=st.integers(0, 9),
    complete=st.booleans(),
)
unseen = st.builds(Unseen, st.text(max_size=5), times, st.booleans(), st.booleans(), st.none() | times)


@st.composite
def snapshots(draw: st.DrawFn) -> NodeState:
    present = tuple(draw(st.lists(gpus, max_size=4)))
    return NodeState(
        place=Place(draw(st.text(max_size=5)), draw(st.text(max_size=5))),
        node=draw(nodes),
        time=draw(st.none() | times),
        driver_version=draw(texts),
        cuda_version=draw(texts),
        source=draw(st.text(max_size=5)),
        fingerprint=draw(st.none() | fingerprints),
        sharing=draw(st.none() | sharings),
        gpus=present,
        since=tuple(draw(times) for _ in present),
        claims=frozenset(draw(st.sets(st.text(max_size=5), max_size=3))),
        unseen=tuple(draw(st.lists(unseen, max_size=3))),
        silent=tuple(draw(st.lists(st.builds(SilentGpu, st.text(max_size=5), times, st.text(max_size=5)), max_size=3))),
    )


@given(snapshots())
def test_every_node_round_trips(snapshot):
    assert decode_node(snapshot.place, snapshot.time, encode_node(snapshot)) == snapshot


def test_fields_an_earlier_version_did_not_write_are_absent():
    written = msgspec.msgpack.encode({"node": {"name": "a"}, "gpus": {"uuid": ["GPU-1"]}, "since": [1.0]})
    assert decode_node(Place("prod", "a"), None, written).gpus == (Gpu(uuid="GPU-1"),)


def test_a_loss_from_an_earlier_version_has_no_time():
    written = msgspec.msgpack.encode(
        {"node": {"name": "a"}, "unseen": [["GPU-1", 5.0, True], ["GPU-2", 6.0, True, True]]}
    )
    assert decode_node(Place("prod", "a"), 9.0, written).unseen == (
        Unseen("GPU-1", 5.0, lost=True),
        Unseen("GPU-2", 6.0, lost=True, unlisted=True),
    )


def test_fields_of_a_later_version_are_ignored():
    written = msgspec.msgpack.encode({"node": {"name": "a", "zone": 1}, "gpus": {"colour": "red"}, "moon": 1})
    assert decode_node(Place("prod", "a"), None, written).gpus == ()


def test_marks_of_an_earlier_version_have_the_time_of_the_reading():
    gpus = {"uuid": ["GPU-1", "GPU-2"], "serial": ["1", "2"], "model": "H100", "last_known": ["serial,model", None]}
    written = msgspec.msgpack.encode({"node": {"name": "a"}, "gpus": gpus, "since": [1.0, 1.0]})
    one, two = decode_node(Place("prod", "a"), 9.0, written).gpus
    assert one.last_known == (LastReport("serial", 9.0), LastReport("model", 9.0))
    assert two.last_known == ()


def test_equal_health_is_written_once_and_shared():
    healthy = Health(row_remap_pending=False, ecc_dram_correctable=0, inforom="G520.0200.00.05")
    worn = Health(row_remap_pending=True, ecc_dram_correctable=0, inforom="G520.0200.00.05")
    rows = [healthy, healthy, worn, None, Health()]
    present = tuple(Gpu(uuid=f"GPU-{number}", health=health) for number, health in enumerate(rows))
    node = NodeState(place=Place("prod", "a"), node=NodeInfo(name="a"), gpus=present, since=(1.0,) * 5)
    written = encode_node(node)
    one, two, *others = decode_node(node.place, None, written).gpus
    assert one.health is two.health
    assert decode_node(node.place, None, written).gpus[0].health is one.health
    assert [gpu.health for gpu in others] == rows[2:]
    assert written.count(b"inforom") == 2  # once for all, and once for what is not reported at all
    assert written.count(b"row_remap_pending") == 3


names = ("cluster", "node", "machine", "source", "chassis", "gpu", "time", "uuid", "model", "event")
values = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5)
field_changes_ = st.lists(
    st.builds(FieldChange, st.sampled_from(Gpu.__struct_fields__), values, values), unique_by=lambda one: one.field
).map(tuple)


@given(field_changes_, st.dictionaries(st.sampled_from(KEPT_FIELDS), st.text(max_size=5)))
def test_records_round_trip(changes, last_known):
    record = SinkRecord(**dict.fromkeys(names, "ü"), changes=changes_object(changes), last_known=last_known or None)
    assert decode_records(encode_records([record, record])) == [record, record]


def test_records_of_an_earlier_version_lack_change_details():
    fields: dict[str, Any] = dict.fromkeys(names, "ü")
    assert decode_records(msgspec.msgpack.encode([fields])) == [SinkRecord(**fields)]


@given(field_changes_, marks.map(tuple))
def test_change_details_round_trip(changes, last_known):
    assert decode_changes(encode_changes(changes)) == changes
    assert decode_last_known(encode_last_known(last_known)) == last_known


@given(gpus, times)
def test_last_known_facts_are_read_as_the_inventory_keeps_them(gpu, time):
    kept = facts_of(gpu, time)
    for lost in (False, True):
        found, was_lost = decode_facts(gpu.uuid, encode_facts(gpu, time, lost=lost))
        assert was_lost is lost
        assert found == kept if found is None or kept is None else (said(found) == said(kept))


def said(gpu):
    known = {
        field: (getattr(gpu.health if field in HEALTH_FIELDS else gpu, field), time) for field, time in gpu.last_known
    }
    return known, gpu.health, gpu.ecc_growth


@given(gpus, gpus)
def test_the_changes_lead_from_one_state_to_the_other(before, after):
    """Applied to what was reported before, they give what is reported after."""
    names = [name for name in Gpu.__struct_fields__ if name not in ("uuid", "last_known", "health", "ecc_growth")]
    reported = {name: getattr(before, name) if before.reports(name) else None for name in names}
    changes = field_changes(before, after)
    reported |= {one.field: one.after for one in changes}
    assert reported == {name: getattr(after, name) if after.reports(name) else None for name in names}
    assert all(one.before != one.after for one in changes)


def test_a_node_that_an_earlier_version_read_without_health_is_read_again():
    fingerprint = Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8)
    place = Place("prod", "n1")
    state = NodeState(place=place, node=NodeInfo(name="n1"), time=1.0, fingerprint=fingerprint)
    written = msgspec.msgpack.decode(encode_node(state))
    assert decode_node(place, 1.0, msgspec.msgpack.encode(written)).fingerprint == fingerprint
    del written["health_read"]
    assert decode_node(place, 1.0, msgspec.msgpack.encode(written)).fingerprint != fingerprint


def test_a_move_with_changed_health_is_one_record():
    fingerprint = Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8)
    inventory = Inventory()

    def read(node: str, time: float, *gpus: Gpu) -> list[SinkRecord]:
        reading = Reading(
            cluster="c",
            node=NodeInfo(name=node),
            source="x/y",
            fingerprint=fingerprint,
            time=time,
            driver_version=None,
            cuda_version=None,
            gpus=gpus,
        )
        changes = inventory.apply(reading).changes
        return readings_records(reading, changes, inventory.node(Place("c", node)))

    fine = Gpu(uuid="GPU-1", serial="1", model="H100", health=Health(row_remap_pending=False, inforom="1"))
    read("a", 10.0, fine, msgspec.structs.replace(fine, uuid="GPU-2"))
    read("a", 20.0)
    worn = msgspec.structs.replace(fine, serial=None, health=Health(row_remap_pending=True))
    one, two = read("b", 30.0, worn, Gpu(uuid="GPU-2", health=Health(row_remap_pending=True)))
    assert (one.event, one.gpu) == ("moved", "1")
    assert one.changes == two.changes == {"row_remap_pending": {"before": False, "after": True}}
    assert one.last_known is not None
    assert one.last_known.keys() == {"serial"}  # facts alone: what is last known of its health is not in records
    assert [record.event for record in read("b", 40.0, worn)] == ["confirmed"]
