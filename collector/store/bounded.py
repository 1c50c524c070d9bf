"""Queries and writes of the store with a deadline."""

import copy
import functools
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

import anyio
from sqlalchemy.ext.asyncio import AsyncConnection

from collector.store.database import Database

__all__ = ["Bounded", "in_time"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_B = TypeVar("_B", bound="Bounded")


class Bounded:
    """Base of classes that query a database, by an optional deadline; `in_time` makes late methods raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.deadline: float | None = None  # on the event loop's clock; None: never

    def within(self, seconds: float) -> Self:
        """Return a copy whose queries and writes together may take this long from now on."""
        bounded = copy.copy(self)
        bounded.deadline = anyio.current_time() + seconds
        return bounded

    async def bounded(self, query: Coroutine[Any, Any, _T]) -> _T:
        """Return a query's result, by the deadline; a late write may still be done."""
        return await (query if self.deadline is None else self._database.within(self.deadline, query))

    def _read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._database.read() if self.deadline is None else self._database.answer(self.deadline)


def in_time(
    query: Callable[Concatenate[_B, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[_B, _P], Coroutine[Any, Any, _T]]:
    """Bound a query or write by the deadline of its object."""

    @functools.wraps(query)
    async def bounded(self: _B, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self.bounded(query(self, *args, **kwargs))

    return cast("Callable[Concatenate[_B, _P], Coroutine[Any, Any, _T]]", bounded)
