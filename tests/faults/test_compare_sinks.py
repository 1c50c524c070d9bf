"""The comparison of sinks with the history finds every planted error, and reports none in correct data."""

import datetime

import pytest

from collector.model import FieldChange, LastReport
from collector.store import HistoricChange
from tests.faults.compare_sinks import (
    Batch,
    Record,
    record,
    recorded,
    row,
    wrong_batches,
    wrong_objects,
    wrong_rows,
    wrong_stream,
)


def change(number: int, event: str = "moved") -> Record:
    time = f"2026-01-01T00:00:{number:02}Z"
    return Record(event, f"GPU-{number}", "c", f"n{number}", time, f"s{number}", "m", "ns/p", "H100", "", "")


HISTORY = [change(number) for number in range(6)]


def batch(key: str, *numbers: int) -> Batch:
    return Batch(key, tuple(HISTORY[number] for number in numbers))


ALL = [batch("a", 0, 1), batch("b", 2, 3, 4), batch("c", 5)]


@pytest.mark.parametrize(
    "batches",
    [
        ALL,
        [ALL[0], ALL[0], ALL[1], ALL[1], ALL[2]],  # the answer was lost
        [ALL[0], ALL[1], ALL[0], ALL[2], ALL[1]],  # a frozen process repeats what its successor has delivered
    ],
)
def test_repetitions_under_their_key_are_right(batches):
    assert wrong_batches(HISTORY, batches) == []
    assert wrong_objects(HISTORY, batches) == []


@pytest.mark.parametrize(
    ("batches", "complaint"),
    [
        ([], "lost: moved GPU-0 on c/n0 at 2026-01-01T00:00:00Z, "),
        (ALL[:2], "lost: moved GPU-5"),
        (ALL[1:], "batch b came before moved GPU-0"),
        ([ALL[0], ALL[2]], "batch c came before moved GPU-2"),
        ([ALL[1], ALL[0], ALL[2]], "batch b came before moved GPU-0"),
        ([*ALL, batch("d", 5)], "key d has what another key had: moved GPU-5"),
        ([*ALL, batch("b", 2, 3)], "key b came with 2 contents"),
        ([batch("a", 1, 0), *ALL[1:]], "batch a is no part of the history: moved GPU-1"),
        ([batch("a", 0, 2), *ALL[1:]], "batch a is no part of the history"),
        ([*ALL, Batch("d", (change(7),))], "batch d is no part of the history: moved GPU-7"),
        ([*ALL, Batch("d", ())], "batch d is no part of the history"),
        ([*ALL, Batch("d", (change(5, "vanished"),))], "batch d is no part of the history: vanished GPU-5"),
    ],
)
def test_what_is_planted_among_batches_is_found(batches, complaint):
    assert any(complaint in one for one in wrong_batches(HISTORY, batches))


@pytest.mark.parametrize(
    ("batches", "complaint"),
    [
        (ALL[1:], "lost: moved GPU-0"),
        ([*ALL, batch("d", 4, 5)], "key d has what another key had: moved GPU-4"),
        ([*ALL, batch("a", 0)], "key a came with 2 contents"),
        ([batch("a", 1, 0), *ALL[1:]], "object a is no part of the history"),
    ],
)
def test_what_is_planted_among_objects_is_found(batches, complaint):
    assert wrong_objects(HISTORY, ALL[::-1]) == []
    assert any(complaint in one for one in wrong_objects(HISTORY, batches))


def test_changes_that_look_the_same_are_told_apart_by_their_number():
    twice = [change(1), change(2), change(1), change(2)]
    batches = [Batch("a", (change(1), change(2))), Batch("b", (change(1), change(2)))]
    assert wrong_batches(twice, batches) == wrong_objects(twice, batches) == wrong_stream(twice, twice) == []
    assert wrong_batches(twice, batches[:1]) == [f"lost: {change(1)}, {change(2)}"]
    assert wrong_objects(twice, batches[:1]) == [f"lost: {change(1)}, {change(2)}"]
    assert wrong_batches(twice[:2], batches) == [f"key b has what another key had: {change(1)}, {change(2)}"]


def test_an_object_whose_changes_stand_at_two_places_leaves_the_one_that_another_needs():
    history = [change(number) for number in (0, 1, 2, 3, 1, 2)]
    twice, longer = Batch("a", (change(1), change(2))), Batch("b", (change(0), change(1), change(2)))
    assert wrong_objects(history, [twice, longer, Batch("c", (change(3),))]) == []
    assert wrong_objects(history, [longer, Batch("c", (change(3),))]) == [f"lost: {change(1)}, {change(2)}"]


@pytest.mark.parametrize("numbers", [(0, 1, 2, 3, 4, 5), (0, 1, 0, 1, 2, 3, 2, 3, 4, 5), (0, 1, 2, 3, 4, 5, 3, 4, 5)])
def test_a_stream_may_repeat_its_last_part(numbers):
    assert wrong_stream(HISTORY, [change(number) for number in numbers]) == []


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ((), "the stream lacks moved GPU-0"),
        ((0, 1, 2, 3, 4), "the stream lacks moved GPU-5"),
        ((0, 1, 3, 4, 5), "the stream has moved GPU-3 on c/n3 at 2026-01-01T00:00:03Z after moved GPU-1"),
        ((1, 0, 2, 3, 4, 5), "the stream has moved GPU-1 on c/n1 at 2026-01-01T00:00:01Z first"),
        ((0, 1, 2, 3, 4, 5, 9), "the stream has moved GPU-9"),
    ],
)
def test_what_is_planted_in_a_stream_is_found(numbers, complaint):
    (found,) = wrong_stream(HISTORY, [change(number) for number in numbers])
    assert found.startswith(complaint)


def test_what_is_planted_among_rows_is_found():
    assert wrong_rows(HISTORY, [*HISTORY[::-1], HISTORY[0]]) == []
    assert wrong_rows(HISTORY, [*HISTORY[1:], change(8)]) == [
        f"lost: {HISTORY[0]}",
        f"no part of the history: {change(8)}",
    ]


ONE = HistoricChange(
    id=1, time=1767225600.25, event="altered", uuid="GPU-1", serial=None, model="H100", chassis=None,
    cluster="c", node="n", machine="m", source="ns/p", previous=None,
    changes=(FieldChange("vbios", "1", "2"),), last_known=(LastReport("serial", 1767225000.0),), mark="rma",
)  # fmt: skip
JSON = {
    "event": "altered", "uuid": "GPU-1", "gpu": "", "cluster": "c", "node": "n", "machine": "m", "chassis": "",
    "source": "ns/p", "time": "2026-01-01T00:00:00Z", "model": "H100",
    "changes": {"vbios": {"before": "1", "after": "2"}}, "last_known": {"serial": "2025-12-31T23:50:00.000Z"},
    "mark": "rma",
}  # fmt: skip
ROW = {
    **{name: value for name, value in JSON.items() if name not in ("changes", "last_known", "time")},
    "id": 7,
    "chassis": "unknown",
    "read_time": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
}


def test_a_change_its_json_and_its_row_are_the_same_record():
    assert recorded(ONE) == record(JSON)
    assert recorded(ONE)._replace(objects="") == row(ROW)


@pytest.mark.parametrize("field", JSON)
def test_every_field_of_a_record_is_compared(field):
    assert recorded(ONE) != record({**JSON, field: "other"})
    if field in ROW:
        assert recorded(ONE)._replace(objects="") != row({**ROW, field: "other"})


def test_a_record_has_all_fields_and_no_others():
    for fields in ({**JSON, "more": ""}, {name: value for name, value in JSON.items() if name != "mark"}):
        with pytest.raises(ValueError, match="fields: "):
            record(fields)
