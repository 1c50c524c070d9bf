"""Asks the history for a page, which must be shown even when the store cannot answer."""

from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from collector.store import History, StoreError
from collector.web.context import CollectorView

__all__ = ["Past", "look_back"]

_T = TypeVar("_T")


class Past(NamedTuple, Generic[_T]):
    """What the history answered."""

    rows: list[_T]
    kept: bool  # False without a store
    trouble: str = ""  # why the store could not answer


async def look_back(context: CollectorView, ask: Callable[[History], Awaitable[list[_T]]]) -> Past[_T]:
    """Ask the history, if there is one; its trouble becomes a sentence."""
    if context.history is None:
        return Past([], kept=False)
    await context.durable()  # or what is shown as present would not be in it yet
    try:
        return Past(await ask(context.history), kept=True)
    except StoreError as error:
        return Past([], kept=True, trouble=str(error))
