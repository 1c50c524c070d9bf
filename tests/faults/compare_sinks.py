"""Whether sinks were given the history: nothing lost, nothing invented, and each change under one key.

The order is compared where there is one: of a webhook's batches, within objects, and of the lines of a single process.
The rows of a table and the lines of several processes are compared as sets.

Pure functions over values. Each returns complaints, one sentence per kind of difference; none if all is well.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from collector.model import Place, SinkRecord
from collector.store import HistoricChange
from collector.timestamps import rfc3339

__all__ = [
    "Batch",
    "Record",
    "record",
    "recorded",
    "row",
    "wrong_batches",
    "wrong_objects",
    "wrong_rows",
    "wrong_stream",
]

TEXTS = ("event", "uuid", "cluster", "node", "time", "gpu", "machine", "source", "model", "chassis")
OBJECTS = ("changes", "last_known")
SHOWN = 3  # of the records that a complaint is about


class Record(NamedTuple):
    """What sinks write of a change: every field of a SinkRecord that they have a place for."""

    event: str
    uuid: str
    cluster: str
    node: str
    time: str
    serial: str
    machine: str
    source: str
    model: str
    chassis: str
    mark: str
    objects: str = ""  # `changes` and `last_known` as JSON; tables have no columns for them

    def __str__(self) -> str:
        return f"{self.event} {self.uuid} on {self.cluster}/{self.node} at {self.time}"


class Batch(NamedTuple):
    """What a sink accepted at once."""

    key: str
    records: tuple[Record, ...]


def record(fields: Mapping[str, Any]) -> Record:
    """Return a record from its fields in JSON; of others than those of a SinkRecord there must be none."""
    if strange := fields.keys() ^ set(SinkRecord.__struct_fields__):
        raise ValueError(f"fields: {sorted(strange)}")
    objects = json.dumps([fields[name] for name in OBJECTS], sort_keys=True)
    return Record(*[*(fields[name] for name in TEXTS), fields["mark"] or "", objects])


def row(columns: Mapping[str, Any]) -> Record:
    """Return a record from the columns of a table, where an absent chassis is "unknown"."""
    texts = {**columns, "time": rfc3339(columns["read_time"].timestamp(), "seconds")}
    if texts["chassis"] == "unknown":
        texts["chassis"] = ""
    return Record(*[texts[name] for name in (*TEXTS, "mark")])


def recorded(change: HistoricChange) -> Record:
    """Return the record of a change of the history."""
    made = SinkRecord.of(
        place=Place(change.cluster, change.node),
        machine=change.machine,
        source=change.source,
        time=rfc3339(change.time, "seconds"),
        event=change.event,
        uuid=change.uuid,
        serial=change.serial,
        model=change.model,
        chassis=change.chassis,
        changes=change.changes,
        last_known=change.last_known,
        mark=change.mark,
    )
    return record(msgspec.to_builtins(made))


def wrong_batches(history: Sequence[Record], batches: Sequence[Batch]) -> list[str]:
    """Compare with what a sink accepted that gets keys, such as a webhook; batches in the order of acceptance."""
    complaints = _doubtful_keys(batches)
    runs, end = _Runs(history), 0
    keys: dict[int, str] = {}  # by the number of the change
    for batch in _firsts(batches):
        found = runs.find(batch.records)
        if not found:
            complaints.append(f"batch {batch.key} is no part of the history: {_some(batch.records)}")
            continue
        first = end if end in found else next((start for start in found if start < end), found[0])
        if first > end:
            complaints.append(f"batch {batch.key} came before {_some(history[end:first])}")
        complaints += _noted(keys, history, first, batch)
        end = max(end, first + len(batch.records))
    return complaints + _lost(history, keys)


def wrong_objects(history: Sequence[Record], batches: Sequence[Batch]) -> list[str]:
    """Compare with objects, whose order is not known; each has a part of the history, in order."""
    complaints = _doubtful_keys(batches)
    runs = _Runs(history)
    keys: dict[int, str] = {}
    found = [(batch, runs.find(batch.records)) for batch in _firsts(batches)]
    # After a clock was ahead, changes of a GPU may be equal, with one time. Objects with the fewest places go first,
    # which is enough unless several equal runs of them overlap.
    for batch, starts in sorted(found, key=lambda one: len(one[1])):
        if not starts:
            complaints.append(f"object {batch.key} is no part of the history: {_some(batch.records)}")
            continue
        free = [start for start in starts if keys.keys().isdisjoint(range(start, start + len(batch.records)))]
        complaints += _noted(keys, history, (free or starts)[0], batch)
    return complaints + _lost(history, keys)


def wrong_stream(history: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """Compare with lines, which have no keys: after a crash, a part that ended with the last line comes again."""
    indexes, end = defaultdict(list), 0
    for index, one in enumerate(history):
        indexes[one].append(index)
    at = {0}  # where in the history the next line may be, as far as the lines so far tell
    for one in records:
        continued = {index + 1 for index in indexes[one] if index in at}
        at = continued or {index + 1 for index in indexes[one] if index <= end}
        if not at:
            where = f"after {history[end - 1]}" if end else "first"
            return [f"the stream has {one} {where}, where the history has {_some(history[end:])}"]
        end = max(end, *at)
    return [] if end == len(history) else [f"the stream lacks {_some(history[end:])}"]


def wrong_rows(history: Sequence[Record], rows: Iterable[Record]) -> list[str]:
    """Compare with the rows of a table, which have no order."""
    there = set(rows)
    complaints = []
    if lost := [one for one in history if one not in there]:
        complaints.append(f"lost: {_some(lost)}")
    if invented := sorted(there.difference(history)):
        complaints.append(f"no part of the history: {_some(invented)}")
    return complaints


class _Runs:
    """Where parts of the history are."""

    def __init__(self, history: Sequence[Record]) -> None:
        self._history = tuple(history)
        self._starts: dict[Record, list[int]] = defaultdict(list)
        for index, one in enumerate(self._history):
            self._starts[one].append(index)

    def find(self, records: tuple[Record, ...]) -> list[int]:
        """Return where these records follow each other."""
        starts = self._starts.get(records[0], []) if records else []
        return [start for start in starts if self._history[start : start + len(records)] == records]


def _firsts(batches: Sequence[Batch]) -> list[Batch]:
    """Return each batch once, however often it came."""
    first: dict[str, Batch] = {}
    for batch in batches:
        first.setdefault(batch.key, batch)
    return list(first.values())


def _doubtful_keys(batches: Sequence[Batch]) -> list[str]:
    """Complain of keys under which different records came."""
    by_key: dict[str, set[tuple[Record, ...]]] = defaultdict(set)
    for batch in batches:
        by_key[batch.key].add(batch.records)
    return [f"key {key} came with {len(found)} contents" for key, found in by_key.items() if len(found) > 1]


def _noted(keys: dict[int, str], history: Sequence[Record], first: int, batch: Batch) -> list[str]:
    """Note the key of each change of a batch; complain of those that have another one."""
    places = range(first, first + len(batch.records))
    double = [history[index] for index in places if keys.setdefault(index, batch.key) != batch.key]
    return [f"key {batch.key} has what another key had: {_some(double)}"] if double else []


def _lost(history: Sequence[Record], keys: Mapping[int, str]) -> list[str]:
    lost = [one for index, one in enumerate(history) if index not in keys]
    return [f"lost: {_some(lost)}"] if lost else []


def _some(records: Sequence[Record]) -> str:
    more = f" and {len(records) - SHOWN} more" if len(records) > SHOWN else ""
    return f"{', '.join(map(str, records[:SHOWN]))}{more}"
