"""Reads the parameters of a request; every mistake is an HTTPBadRequest that says what was expected."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from aiohttp import web

from collector.text import enumerated
from collector.timestamps import parse_time
from collector.web.keys import COLLECTOR

__all__ = ["MAX_LIMIT", "Paging", "check_parameters", "check_values", "choice", "paging", "row_id", "timestamp"]

DEFAULT_LIMIT = 1000
MAX_LIMIT = 10_000
MAX_NAMED_VALUES = 20  # in an error
MAX_OFFSET = 2**53  # the largest whole number that every JSON parser keeps


class Paging(NamedTuple):
    """Which part of a list is wanted."""

    limit: int
    offset: int


def check_parameters(request: web.Request, known: Collection[str], *, repeatable: Collection[str] = ()) -> None:
    """Refuse a parameter that is unknown, or repeated where it must not be."""
    for key in request.query:
        if key not in known:
            expected = f"expected one of {', '.join(sorted(known))}" if known else "expected none"
            raise web.HTTPBadRequest(text=f'unknown parameter "{key}"; {expected}')
        if key not in repeatable and len(request.query.getall(key)) > 1:
            raise web.HTTPBadRequest(text=f"{key}: expected one value")


def paging(request: web.Request) -> Paging:
    """Return `limit` and `offset`."""
    return Paging(
        _whole_number(request, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
        _whole_number(request, "offset", 0, 0, MAX_OFFSET),
    )


def choice(request: web.Request, key: str, known: Sequence[str]) -> str:
    """Return one of the known values, by default the first one."""
    value = request.query.get(key) or known[0]
    if value not in known:
        raise web.HTTPBadRequest(text=f"{key}: expected one of {', '.join(name for name in known if name)}")
    return value


def check_values(request: web.Request, key: str, known: Collection[str]) -> None:
    """Refuse a value of a parameter that is none of the known ones, of which the first ones are named."""
    for value in request.query.getall(key, []):
        if value not in known:
            raise web.HTTPBadRequest(text=f"{key}: expected one of {enumerated(known, MAX_NAMED_VALUES)}")


def row_id(request: web.Request, key: str, expected: str) -> int | None:
    """Return the id of a row; None if it is not given."""
    text = request.query.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise web.HTTPBadRequest(text=f"{key}: expected {expected}")
    return int(text)


def timestamp(request: web.Request, key: str, *, future: bool = False) -> float | None:
    """Return a time in Unix seconds, as `parse_time` reads it; None if it is not given."""
    text = request.query.get(key)
    if text is None:
        return None
    try:
        return parse_time(text, request.app[COLLECTOR].now(), future=future)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"{key}: {error}") from None


def _whole_number(request: web.Request, key: str, default: int, least: int, most: int) -> int:
    text = request.query.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 17 and least <= int(text) <= most):
        raise web.HTTPBadRequest(text=f"{key}: expected a whole number from {least} to {most}")
    return int(text)
