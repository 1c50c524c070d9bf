"""GPUs of a node that were replaced by others, as one row."""

import itertools

import msgspec

from collector.model import Change, Event, Gpu, Place
from collector.views.recent_changes import ChangeGroup, Folded, grouped
from collector.views.replacements import REPLACED_WITHIN_SECONDS, exchanges, replaced

NODE = Place("a", "n1")


def groups(*changes: tuple[Event, float, str]) -> list[ChangeGroup]:
    """Return changes of GPUs, given as "1 2 3", the newest first; a GPU named "4/2" is in module 2."""
    ids = itertools.count(1)
    found: list[ChangeGroup] = []
    for event, time, names in changes:
        gpus = [Gpu(uuid=uuid, module=module or None) for uuid, _, module in (n.partition("/") for n in names.split())]
        ones = [Change(event=event, time=time, gpu=gpu, place=NODE, machine="", source="") for gpu in gpus]
        if event is Event.MOVED:
            ones = [msgspec.structs.replace(one, previous=Place("b", "n2")) for one in ones]
        found += grouped(ones, ids)
    return found[::-1]


def told(found: list[ChangeGroup]) -> list[tuple[str, str, str]]:
    return [(one.event, " ".join(g.uuid for g in one.left), " ".join(g.uuid for g in one.gpus)) for one in found]


LEFT, CAME, MOVED = Event.VANISHED, Event.APPEARED, Event.MOVED
REPLACED = Folded.REPLACED


def test_departure_and_arrival_in_one_reading_are_a_replacement() -> None:
    (one,) = replaced(groups((CAME, 5.0, "3 4"), (LEFT, 5.0, "1 2")))
    assert told([one]) == [(REPLACED, "1 2", "3 4")]
    assert (one.time, one.began, one.size) == (5.0, 5.0, 2)


def test_a_replacement_takes_at_most_an_hour() -> None:
    soon, late = REPLACED_WITHIN_SECONDS, REPLACED_WITHIN_SECONDS + 1.0
    assert told(replaced(groups((LEFT, 0.0, "1"), (CAME, soon, "2")))) == [(REPLACED, "1", "2")]
    assert told(replaced(groups((LEFT, 0.0, "1"), (CAME, late, "2")))) == [(CAME, "", "2"), (LEFT, "", "1")]


def test_gpus_that_come_before_others_leave_replace_nothing() -> None:
    assert told(replaced(groups((CAME, 1.0, "2"), (LEFT, 2.0, "1")))) == [(LEFT, "", "1"), (CAME, "", "2")]


def test_gpus_that_return_are_not_replaced() -> None:
    away = groups((LEFT, 0.0, "1 2"), (CAME, 60.0, "1 2"))
    assert replaced(away) == away


def test_gpus_returning_with_a_new_one_are_counted() -> None:
    (one,) = replaced(groups((LEFT, 0.0, "1 2 3"), (CAME, 60.0, "1 2 4")))
    assert (told([one]), one.returned) == ([(REPLACED, "3", "4")], 2)


def test_an_arriving_gpu_shows_its_origin() -> None:
    (one,) = replaced(groups((LEFT, 0.0, "1"), (MOVED, 60.0, "2")))
    assert told([one]) == [(REPLACED, "1", "2")]
    assert one.origins == (Place("b", "n2"),)


def test_a_departed_gpu_found_elsewhere_has_moved() -> None:
    (left,) = groups((LEFT, 0.0, "1 2"))
    (came,) = groups((MOVED, 60.0, "1 2"))
    moved = msgspec.structs.replace(came, place=Place("b", "n3"), previous=NODE)
    late = msgspec.structs.replace(moved, time=REPLACED_WITHIN_SECONDS + 1.0)
    one = msgspec.structs.replace(moved, gpus=moved.gpus[:1])
    assert replaced([moved, left]) == [moved]
    assert replaced([late, left]) == [late, left]
    assert replaced([one, left]) == [one, left]


def test_each_gpu_is_replaced_by_the_next_arrival() -> None:
    found = replaced(groups((LEFT, 0.0, "1"), (CAME, 10.0, "2"), (LEFT, 20.0, "2"), (CAME, 30.0, "3")))
    assert told(found) == [(REPLACED, "2", "3"), (REPLACED, "1", "2")]


def test_a_replacement_is_not_split_across_parts() -> None:
    newer, older = groups((LEFT, 0.0, "1"), (CAME, 60.0, "2"))
    assert told(replaced([newer], [newer, older])) == [(REPLACED, "1", "2")]
    assert told(replaced([older], [newer, older])) == []
    assert told(replaced([older], [newer, older], chosen=True)) == [(REPLACED, "1", "2")]


def test_replacements_are_listed_by_slot_if_known() -> None:
    (one,) = replaced(groups((LEFT, 0.0, "1/1 2/2 3"), (CAME, 60.0, "4/2 5/1 6 7/8")))
    assert [(e.seat, e.left and e.left.uuid, e.came and e.came.uuid) for e in exchanges(one)] == [
        ("module 1", "1", "5"),
        ("module 2", "2", "4"),
        ("", "3", None),
        ("", None, "6"),
        ("module 8", None, "7"),
    ]
