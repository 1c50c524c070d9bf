"""What delivery to a webhook takes at least: it reads, sends and confirms each batch, and does nothing else.

The changes are read as gpuid reads them, 2,000 at a time while others are sent. Each batch goes to the receiver over
one connection of httpcore's, without a pool or a client, and before the next one is sent, aiosqlite commits that it was
delivered.
"""

import asyncio
from pathlib import Path

import aiosqlite
import httpcore

from collector.model import SinkRecord
from collector.sinks.formats import json_array
from collector.store import outbox_records
from collector.store.engines import _compiled

__all__ = ["deliver_least"]

_READ = _compiled(outbox_records._CHANGES_AS_JSON)
_CONFIRM = "UPDATE delivered SET last = ? WHERE last < ?"


async def deliver_least(store: Path, url: str, size: int) -> None:
    """Send all changes of a store to a receiver in batches of `size`."""
    target = httpcore.URL(url)
    common: list[tuple[bytes | str, bytes | str]] = [("Host", target.host), ("Content-Type", "application/json")]
    async with (
        aiosqlite.connect(store, isolation_level=None) as reader,
        aiosqlite.connect(store, isolation_level=None) as writer,
        httpcore.AsyncHTTPConnection(target.origin) as connection,
    ):
        await writer.executescript(
            "PRAGMA synchronous = NORMAL; CREATE TABLE delivered (last INTEGER); INSERT INTO delivered VALUES (0)"
        )
        ids, records = await _read(reader, 0)
        while ids:
            following = asyncio.create_task(_read(reader, ids[-1]))
            for start in range(0, len(ids), size):
                content = json_array(records[start : start + size])
                headers = [*common, ("Content-Length", str(len(content)))]
                answer = await connection.request("POST", target, headers=headers, content=content)
                if not 200 <= answer.status < 300:
                    raise RuntimeError(f"the receiver answered {answer.status}")
                last = ids[start : start + size][-1]
                await writer.execute_fetchall(_CONFIRM, (last, last))
            ids, records = await following


async def _read(reader: aiosqlite.Connection, cursor: int) -> tuple[list[int], list[SinkRecord]]:
    values = {"b_cursor": cursor, "b_upto": 1 << 62, "b_limit": outbox_records.RECORDS_AHEAD}
    ((written,),) = await reader.execute_fetchall(str(_READ), _READ.construct_params(values))
    return outbox_records._from_json(written)
