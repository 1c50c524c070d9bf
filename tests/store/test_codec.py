"""How nodes and records are written down."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from collector.model import Fingerprint, Gpu, NodeInfo, NodeState, Place, Sharing, SilentGpu, SinkRecord, Unseen
from collector.store.codec import decode_node, decode_records, encode_node, encode_records

texts = st.none() | st.text(max_size=5)
gpus = st.builds(
    Gpu,
    **{
        field: {
            "uuid": st.text(max_size=5),
            "minor_number": st.none() | st.integers(0, 99),
            "mig": st.none() | st.booleans(),
            "virtual": st.booleans(),
            "multi_gpu_board": st.booleans(),
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
times = st.floats(0, 4e9)


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
        unseen=tuple(draw(st.lists(st.builds(Unseen, st.text(max_size=5), times, st.booleans()), max_size=3))),
        silent=tuple(draw(st.lists(st.builds(SilentGpu, st.text(max_size=5), times, st.text(max_size=5)), max_size=3))),
    )


@given(snapshots())
def test_every_node_reads_as_it_was_written(snapshot):
    assert decode_node(snapshot.place, snapshot.time, encode_node(snapshot)) == snapshot


def test_what_an_earlier_version_did_not_write_is_absent():
    written = msgspec.msgpack.encode({"node": {"name": "a"}, "gpus": {"uuid": ["GPU-1"]}, "since": [1.0]})
    assert decode_node(Place("prod", "a"), None, written).gpus == (Gpu(uuid="GPU-1"),)


def test_fields_of_a_later_version_are_ignored():
    written = msgspec.msgpack.encode({"node": {"name": "a", "zone": 1}, "gpus": {"colour": "red"}, "moon": 1})
    assert decode_node(Place("prod", "a"), None, written).gpus == ()


def test_records_read_as_they_were_written():
    record = SinkRecord(**dict.fromkeys(SinkRecord.__struct_fields__, "ü"))
    assert decode_records(encode_records([record, record])) == [record, record]
