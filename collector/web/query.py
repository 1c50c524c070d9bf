"""The kinds of API parameters, for validating requests and for the OpenAPI document."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
from aiohttp import web

from collector.text import enumerated, one_line
from collector.timestamps import parse_time
from collector.views.columns import columns, flat_columns
from collector.views.listing import EXPECTED_NEXT, MAX_CURSOR_LENGTH, Sort
from collector.web.problem import InvalidParameterError, UnknownParameterError

__all__ = [
    "MAX_LIMIT",
    "After",
    "Choice",
    "Fields",
    "Kind",
    "Moment",
    "Parameter",
    "Query",
    "SortKeys",
    "Text",
    "Whole",
]

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
MAX_TEXT_LENGTH = 300  # characters of a value; names and serials are shorter
MAX_NAMED_VALUES = 20  # in an error


class Kind(Protocol):
    """The type of a parameter."""

    def parse(self, text: str, now: float) -> Any:
        """Return the value; ValueError says in one line what was expected. `now` is in Unix seconds."""

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""


class Text(NamedTuple):
    """Any text."""

    max_length: int = MAX_TEXT_LENGTH

    def parse(self, text: str, now: float) -> str:  # noqa: ARG002
        """Return the text."""
        if len(text) > self.max_length:
            raise ValueError(f"expected at most {self.max_length} characters")
        return text

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "string", "maxLength": self.max_length}


class Choice(NamedTuple):
    """One of several words."""

    values: Sequence[str]

    def parse(self, text: str, now: float) -> str:  # noqa: ARG002
        """Return the word."""
        if text not in self.values:
            raise ValueError(f"expected one of {enumerated(list(map(str, self.values)), MAX_NAMED_VALUES)}")
        return text

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "string", "enum": list(map(str, self.values))}


class Whole(NamedTuple):
    """A whole number."""

    least: int
    most: int

    def parse(self, text: str, now: float) -> int:  # noqa: ARG002
        """Return the number."""
        if not (text.isascii() and text.isdigit() and len(text) < 17 and self.least <= int(text) <= self.most):
            raise ValueError(f"expected a whole number from {self.least} to {self.most}")
        return int(text)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


class Moment(NamedTuple):
    """A time, absolute or an age."""

    future: bool = False  # whether it may be in the future
    latest: bool = False  # whether it means the end of the given second or millisecond

    def parse(self, text: str, now: float) -> float:
        """Return Unix seconds."""
        return parse_time(text, now, future=self.future, latest=self.latest)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "string", "maxLength": 60, "examples": ["2026-11-24T12:00:00Z", "yesterday", "2h"]}


class After(NamedTuple):
    """Where the previous page ended, in the format of one kind of list; its parser raises ValueError."""

    parser: Callable[[str], Any]

    def parse(self, text: str, now: float) -> Any:  # noqa: ARG002
        """Return the cursor."""
        if len(text) > MAX_CURSOR_LENGTH:
            raise ValueError(EXPECTED_NEXT)
        return self.parser(text)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "string", "maxLength": MAX_CURSOR_LENGTH, "pattern": "^[A-Za-z0-9_.-]+$"}


class Fields(NamedTuple):
    """Columns of a row type, separated by commas."""

    row_type: type[msgspec.Struct]

    def parse(self, text: str, now: float) -> tuple[str, ...]:  # noqa: ARG002
        """Return the names; an object's name means all of its fields."""
        names = tuple(dict.fromkeys(text.split(",")))
        known = self.names
        for name in names:
            if name not in known:
                raise ValueError(f'unknown column "{one_line(name, 40)}"; expected some of {", ".join(known)}')
        return names

    @property
    def names(self) -> list[str]:
        """All names that may be chosen: the columns, and the fields of object columns."""
        names = [column.name for column in columns(self.row_type)]
        return names + [column.name for column in flat_columns(self.row_type) if column.name not in names]

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "array", "items": {"type": "string", "enum": self.names}, "minItems": 1}


class SortKeys(NamedTuple):
    """A column to sort by, prefixed with a minus for descending order."""

    keys: Sequence[str]

    def parse(self, text: str, now: float) -> Sort:  # noqa: ARG002
        """Return the order."""
        key = text.removeprefix("-")
        if key not in self.keys:
            raise ValueError(f"expected one of {', '.join(self.keys)}, prefixed with - for descending order")
        return Sort(key, descending=text.startswith("-"))

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema."""
        return {"type": "string", "enum": [sign + key for key in self.keys for sign in ("", "-")]}


class Parameter(NamedTuple):
    """One parameter of an operation."""

    name: str
    kind: Kind
    description: str
    repeated: bool = False  # whether it may be given several times, matching any of the values
    filters: bool = False  # whether it filters rows by the column of its name
    in_path: bool = False
    default: Any = None  # as `parse` returns it


class Query:
    """The validated parameters of one request; each mistake is a problem that says what was expected."""

    def __init__(self, request: web.Request, parameters: Collection[Parameter], now: float) -> None:
        self._parameters = {one.name: one for one in parameters}
        in_query = [one.name for one in parameters if not one.in_path]
        for name in request.query:
            if name not in in_query:
                raise UnknownParameterError(name, sorted(in_query))
        self._values: dict[str, list[Any]] = {}
        for one in parameters:
            texts = [request.match_info[one.name]] if one.in_path else request.query.getall(one.name, [])
            if len(texts) > 1 and not one.repeated:
                raise InvalidParameterError(one.name, "expected one value")
            try:
                self._values[one.name] = [one.kind.parse(text, now) for text in texts]
            except ValueError as error:
                raise InvalidParameterError(one.name, str(error)) from None

    def __contains__(self, name: str) -> bool:
        """Return whether a parameter is given."""
        return bool(self._values.get(name))

    def __getitem__(self, name: str) -> Any:
        """Return the value of a parameter, or its default."""
        values = self._values.get(name)
        return values[0] if values else self._parameters[name].default

    def all(self, name: str) -> list[Any]:
        """Return all values of a parameter."""
        return self._values[name]

    @property
    def filters(self) -> Mapping[str, frozenset[str]]:
        """The allowed values by column."""
        return {name: frozenset(self._values[name]) for name in self._filtering() if self._values[name]}

    def _filtering(self) -> Iterator[str]:
        return (name for name, one in self._parameters.items() if one.filters)
