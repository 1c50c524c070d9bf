"""The condition that a column contains a text, in any case, in each engine's fastest form."""

import re
from typing import Any

from sqlalchemy import Boolean, ColumnElement, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

__all__ = ["contains"]


class _Like(FunctionElement[bool]):
    """A case-insensitive pattern: SQLite's LIKE is so by itself, for ASCII only, like its lower()."""

    inherit_cache = True
    type = Boolean()


@compiles(_Like)
def _compile(element: _Like, compiler: Any, **options: Any) -> str:
    column, pattern = (compiler.process(one, **options) for one in element.clauses)
    like = "LIKE" if compiler.dialect.name == "sqlite" else "ILIKE"
    return f"{column} {like} {pattern} ESCAPE '/'"


def contains(column: ColumnElement[Any], part: str) -> ColumnElement[bool]:
    """Return the condition that a column contains a text, in any case."""
    escaped = re.sub("[/%_]", r"/\g<0>", part)
    return _Like(column, literal(f"%{escaped}%"))
