"""What the sinks of a world were given so far, compared with its history; and what the logs have no place for."""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import anyio
import asyncpg
import botocore.exceptions

from collector.model import GpuidError
from collector.store import OpenMode, Store, StoreSettings
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
from tests.support import s3

if TYPE_CHECKING:
    from tests.faults.world import World

__all__ = ["Sinks"]

CHANGES = 10_000  # that are read at once
# What a start says before it ends, while a fault of the store lasts or nothing can be read from the configuration.
_CANNOT_START = re.compile(rb"gpuid: \S+: (?:store postgresql://.+|Invalid .+ \(at end of document\))")


class Sinks:
    """Compares at each calm; what was read before is kept."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._history: list[Record] = []
        self._last = 0  # the id of the last change
        self._accepted: dict[str, list[Batch]] = defaultdict(list)  # by webhook
        self._requests: dict[str, int] = {}  # that have been looked at
        self._objects: dict[tuple[str, str], Batch] = {}  # by key and ETag
        self._read: dict[str, int] = {}  # bytes of each log
        self._lines: list[Record] = []  # of all processes
        self.odd: list[str] = []  # tracebacks, and what is no event

    def wrong(self) -> list[str]:
        """Return what the sinks have and should not, or lack."""
        try:
            anyio.run(self._read_history)
        except GpuidError as error:
            return [f"the history cannot be read: {error}"]
        self._read_requests()
        self._read_logs()
        found = [
            f"webhook {name}: {one}"
            for name in self._world.receivers.keys() & self._world.sinks.keys()
            for one in wrong_batches(self._history, self._accepted[name])
        ]
        if self._world.warehouse is not None:
            try:
                history = [one._replace(objects="") for one in self._history]
                found += [f"table: {one}" for one in wrong_rows(history, anyio.run(self._read_rows))]
            except (OSError, asyncpg.PostgresError) as error:
                found.append(f"the table cannot be read: {error}")
        lines = wrong_stream if len(self._world.processes) == 1 else wrong_rows
        found += [f"stdout: {one}" for one in lines(self._history, self._lines)]
        try:
            objects = list(self._read_objects())
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
            return [*found, f"S3 cannot be read: {error}"]
        if self._world.lake is not None:
            found += [f"S3: {one}" for one in wrong_objects(self._history, objects)]
        return found

    async def _read_history(self) -> None:
        settings = StoreSettings(url=self._world.store)
        async with Store.open(settings, OpenMode.READER) as store:
            while changes := await store.history.changes(after=self._last, limit=CHANGES):
                self._history += map(recorded, changes)
                self._last = changes[-1].id

    async def _read_rows(self) -> list[Record]:
        connection = await asyncpg.connect(self._world.warehouse, timeout=10)
        try:
            rows = await connection.fetch("SELECT * FROM serials", timeout=10)
        finally:
            await connection.close(timeout=10)
        return [row(dict(one)) for one in rows]

    def _read_requests(self) -> None:
        for name, receiver in self._world.receivers.items():
            new = receiver.requests[self._requests.get(name, 0) :]
            self._accepted[name] += [
                Batch(one.key, tuple(map(record, one.records))) for one in new if 200 <= one.status < 300
            ]
            self._requests[name] = self._requests.get(name, 0) + len(new)

    def _read_logs(self) -> None:
        for process in self._world.processes:
            start = self._read.get(process.name, 0)
            with process.log.open("rb") as file:
                file.seek(start)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            for line in whole.splitlines():
                self._read_line(process.name, line)
            self._read[process.name] = start + len(whole)

    def _read_line(self, name: str, line: bytes) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            if not _CANNOT_START.fullmatch(line):
                self.odd.append(f"log of {name}: {line.decode(errors='replace')}")
            return
        if "level" not in found:
            self._lines.append(record(found))
        elif "Traceback" in (traceback := found.get("exception", "")):
            self.odd.append(f"log of {name}: {found['message']}: {traceback}")

    def _read_objects(self) -> Iterator[Batch]:
        if self._world.lake is None:
            return
        client = s3.client(self._world.lake)
        try:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=s3.BUCKET):
                for entry in page.get("Contents", ()):
                    which = entry["Key"], entry["ETag"]
                    if which not in self._objects:
                        answer = client.get_object(Bucket=s3.BUCKET, Key=entry["Key"])
                        body = answer["Body"].read()
                        lines = (gzip.decompress(body) if entry["Key"].endswith(".gz") else body).splitlines()
                        self._objects[which] = Batch(
                            answer["Metadata"]["idempotency_key"], tuple(record(json.loads(line)) for line in lines)
                        )
                    yield self._objects[which]
        finally:
            client.close()
