"""What an operation of the API is made of."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from collector.web.problem import Code
from collector.web.query import Parameter

__all__ = ["Body", "Operation"]


class Body(NamedTuple):
    """The body of a request."""

    kinds: Mapping[str, type | None]  # by media type; None: text
    description: str


class Operation(NamedTuple):
    """One operation of the API."""

    method: str
    path: str
    id: str  # its operationId
    tag: str
    summary: str
    parameters: tuple[Parameter, ...]
    answer: Any  # the type of the response, or of a list's rows
    rows: str = ""  # the name of the list; empty: the response is one object
    total: bool = False  # whether the list is counted
    csv: bool = False  # whether rows are available as CSV
    errors: tuple[Code, ...] = ()  # in addition to those of every operation
    body: Body | None = None
