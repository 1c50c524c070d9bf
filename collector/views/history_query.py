"""Queries the history for pages that must be shown even if the store cannot answer."""

from collections.abc import Awaitable, Callable
from typing import Generic, NamedTuple, TypeVar

from collector.store import History, StoreError
from collector.views.collector_view import CollectorView

__all__ = ["HistoryAnswer", "query_history"]

_T = TypeVar("_T")


class HistoryAnswer(NamedTuple, Generic[_T]):
    """The answer from the history."""

    rows: list[_T]
    configured: bool  # False without a store
    error: str = ""  # why the store could not answer

    @property
    def available(self) -> bool:
        """Whether the rows are complete; if not, memory has at least the latest changes."""
        return self.configured and not self.error


async def query_history(
    view: CollectorView, query: Callable[[History], Awaitable[list[_T]]], history: History | None = None
) -> HistoryAnswer[_T]:
    """Return the history's answer to a query; without a store, or on failure, it has no rows.

    Queries of one response share its deadline if they use the same `history` of the view.
    """
    history = history or view.history  # its time begins here
    if history is None:
        return HistoryAnswer([], configured=False)
    await view.wait_committed()  # otherwise it might not have the current state yet
    try:
        return HistoryAnswer(await query(history), configured=True)
    except StoreError as error:
        return HistoryAnswer([], configured=True, error=str(error))
