"""Changes of mere counters as one change."""

import itertools
from typing import Any

from collector.health import Health
from collector.model import Change, Event, FieldChange, Gpu, Place
from collector.views.counting import fold_counting
from collector.views.recent_changes import ChangeGroup, grouped


def groups(*changes: tuple[str, Event, tuple[FieldChange, ...]]) -> list[ChangeGroup]:
    """Return changes of GPUs of one node, given the oldest first, the newest first."""
    ids = itertools.count(1)
    found: list[ChangeGroup] = []
    for number, (uuid, event, altered) in enumerate(changes):
        values: dict[str, Any] = {one.field: one.after for one in altered}
        grown = float(number) if "ecc_dram_uncorrectable" in values else None
        gpu = Gpu(uuid=uuid, health=Health(**values) if event is Event.HEALTH else None, ecc_growth=grown)
        place = Place("a", "n1")
        change = Change(event=event, time=float(number), gpu=gpu, place=place, machine="", source="", changes=altered)
        found += grouped([change], ids)
    return found[::-1]


def counted(before: int, after: int, field: str = "ecc_dram_correctable") -> tuple[FieldChange, ...]:
    return (FieldChange(field, before, after),)


def told(found: list[ChangeGroup]) -> list[tuple[str, str, int]]:
    return [(group.gpus[0].uuid, group.summary, group.times) for group in found]


def test_repeated_growth_is_one_row() -> None:
    changes = [("g1", Event.HEALTH, counted(number, number + 1)) for number in range(20)]
    changes.insert(10, ("g2", Event.MOVED, ()))
    (first, second) = fold_counting(groups(*changes), 12)
    assert told([first, second]) == [("g1", "DRAM errors (correctable) 0 → 20", 20), ("g2", "", 1)]
    assert (first.time, first.began) == (20.0, 0.0)


def test_other_changes_have_their_own_row() -> None:
    changes = groups(
        ("g1", Event.HEALTH, counted(5, 7)),
        ("g1", Event.HEALTH, counted(7, 0)),
        ("g1", Event.HEALTH, counted(0, 3)),
        ("g2", Event.HEALTH, counted(0, 3)),
        ("g1", Event.HEALTH, counted(0, 1, "ecc_dram_uncorrectable")),
        ("g1", Event.HEALTH, counted(1, 2, "ecc_dram_uncorrectable")),
        ("g1", Event.HEALTH, (FieldChange("row_remap_pending", False, True),)),
    )
    assert fold_counting(changes, 12) == changes


def test_no_more_rows_are_returned_than_requested() -> None:
    changes = groups(*((f"g{number}", Event.HEALTH, counted(0, 1)) for number in range(20)))
    assert fold_counting(changes, 12) == changes[:12]
