"""UUIDs of GPUs as SQLite's columns have them: 16 bytes instead of 40 characters, in the table and in each index.

A UUID in another form than the tool's stays a text. PostgreSQL's columns have texts only.
"""

import re
from typing import Any

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

__all__ = ["UUID_BYTES", "Uuid", "packed", "unpacked", "uuid_of_hex"]

UUID_BYTES = 16
_CANONICAL = re.compile(r"GPU-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def packed(uuid: str) -> str | bytes:
    """Return a UUID as SQLite's columns have it."""
    return bytes.fromhex(uuid[4:].replace("-", "")) if _CANONICAL(uuid) else uuid


def unpacked(stored: Any) -> Any:
    """Return the UUID that `packed` was given; a damaged value unchanged."""
    return uuid_of_hex(stored.hex()) if type(stored) is bytes and len(stored) == UUID_BYTES else stored


def uuid_of_hex(digits: str) -> str:
    """Return the UUID with these 32 digits."""
    return f"GPU-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Uuid(TypeDecorator[str]):
    """The type of a column of UUIDs."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """Return a value as the engine's column has it."""
        return packed(value) if dialect.name == "sqlite" and isinstance(value, str) else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        """Return the value of an engine's column."""
        return unpacked(value) if dialect.name == "sqlite" else value
