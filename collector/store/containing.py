"""Conditions that each engine has in a form of its own, which is the fastest there."""

import re
from typing import Any

from sqlalchemy import Boolean, ColumnElement, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NULLTYPE

from collector.store.identifiers import Uuid

__all__ = ["by_engine", "contains"]


class _Like(FunctionElement[bool]):
    """A case-insensitive pattern: SQLite's LIKE is so by itself, for ASCII only, like its lower()."""

    inherit_cache = True
    type = Boolean()


class _LikeInText(_Like):
    """A pattern that no UUID in the tool's form matches: of these, SQLite has bytes."""

    inherit_cache = True


class _ByEngine(FunctionElement[bool]):
    """Two conditions that mean the same: one for SQLite, whose tables are views, and one for PostgreSQL."""

    inherit_cache = True
    type = NULLTYPE  # type: ignore[assignment]  # a boolean would be compared with 1 on SQLite, which then finds no index for it


class _LikeUuid(_Like):
    """A pattern that a UUID in the tool's form may match, and one of its digits: SQLite compares these first."""

    inherit_cache = True


@compiles(_Like)
def _compile_like(element: _Like, compiler: Any, **options: Any) -> str:
    column, pattern = (compiler.process(one, **options) for one in list(element.clauses)[:2])
    if compiler.dialect.name != "sqlite":
        return f"{column} ILIKE {pattern} ESCAPE '/'"
    if isinstance(element, _LikeInText):
        return f"(typeof({column}) = 'text' AND {column} LIKE {pattern} ESCAPE '/')"
    if isinstance(element, _LikeUuid):
        text = f"{_UUID_TEXT.format(column)} LIKE {pattern} ESCAPE '/'"
        digits = compiler.process(list(element.clauses)[2], **options)
        return f"CASE WHEN typeof({column}) = 'blob' AND NOT instr(hex({column}), {digits}) THEN 0 ELSE {text} END"
    return f"{column} LIKE {pattern} ESCAPE '/'"


@compiles(_ByEngine)
def _compile_by_engine(element: _ByEngine, compiler: Any, **options: Any) -> str:
    sqlite, postgresql = element.clauses
    return f"({compiler.process(sqlite if compiler.dialect.name == 'sqlite' else postgresql, **options)})"


def contains(column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
    """Return the condition that a column contains a text, in any case."""
    pattern = literal("%" + re.sub("[/%_]", r"/\g<0>", part) + "%")
    if not isinstance(column.type, Uuid):
        return _Like(column, pattern)
    if (found := _IN_UUIDS(part)) is None:
        return _LikeInText(column, pattern)
    return _LikeUuid(column, pattern, literal(found[1].replace("-", "").upper()))


def by_engine(*, sqlite: ColumnElement[bool], postgresql: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return a condition in the form for the engine that answers the query."""
    return _ByEngine(sqlite, postgresql)


_IN_UUIDS = re.compile(r"[gpu]{0,3}([0-9a-f-]*)", re.IGNORECASE | re.ASCII).fullmatch
_UUID_TEXT = (
    "CASE WHEN typeof({0}) = 'blob' THEN 'GPU-' || substr(hex({0}), 1, 8) || '-' || substr(hex({0}), 9, 4) || '-'"
    " || substr(hex({0}), 13, 4) || '-' || substr(hex({0}), 17, 4) || '-' || substr(hex({0}), 21) ELSE {0} END"
)
