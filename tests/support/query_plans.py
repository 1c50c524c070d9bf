"""How an engine runs a query."""

from collections.abc import Awaitable
from typing import Any

from sqlalchemy import Engine, event

from collector.store import Store

__all__ = ["plans_of"]


async def plans_of(store: Store, query: Awaitable[Any], *, of: str = "SELECT gpuid_changes") -> list[str]:
    """Await a query, and return how the engine runs each of its statements that begin with `of`."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    await query
    event.remove(Engine, "before_cursor_execute", note)
    plans = []
    async with store.database.read() as connection:
        if connection.dialect.name == "postgresql":
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        explain = "EXPLAIN " if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
        for statement, parameters in asked:
            if statement.startswith(of):
                rows = await connection.exec_driver_sql(explain + statement, parameters)
                plans += [" ".join(map(str, row)) for row in rows]
    return plans
