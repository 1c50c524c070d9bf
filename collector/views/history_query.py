"""Asks the history for a page, which must be shown even when the store cannot answer."""

from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from collector.store import History, StoreError
from collector.views.collector_view import CollectorView

__all__ = ["HistoryAnswer", "query_history"]

_T = TypeVar("_T")


class HistoryAnswer(NamedTuple, Generic[_T]):
    """What the history answered."""

    rows: list[_T]
    configured: bool  # False without a store
    error: str = ""  # why the store could not answer

    @property
    def available(self) -> bool:
        """Whether the rows are all that happened; if not, memory holds at least the latest changes."""
        return self.configured and not self.error


async def query_history(
    view: CollectorView, query: Callable[[History], Awaitable[list[_T]]], history: History | None = None
) -> HistoryAnswer[_T]:
    """Return what the history answers to a query; without a store, or if that fails, without rows.

    Queries of one answer share its time if they are given the same `history` of the view.
    """
    history = history or view.history  # its time begins here
    if history is None:
        return HistoryAnswer([], configured=False)
    await view.wait_committed()  # or what is shown as present would not be in it yet
    try:
        return HistoryAnswer(await query(history), configured=True)
    except StoreError as error:
        return HistoryAnswer([], configured=True, error=str(error))
