"""A logger with context: each line has the cluster and, if it concerns one, the node."""

import logging
from collections.abc import MutableMapping
from typing import Any

__all__ = ["ContextLogger"]


class ContextLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds its fields to everything logged through it; a call's own `extra` follows them."""

    def __init__(self, logger: logging.Logger, **fields: str) -> None:
        super().__init__(logger, fields)
        self._fields = fields

    def bind(self, **fields: str) -> "ContextLogger":
        """Return a logger with these fields in addition."""
        return ContextLogger(self.logger, **(self._fields | fields))

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Return the message unchanged, and the keyword arguments with the fields added to `extra`."""
        return msg, {**kwargs, "extra": self._fields | kwargs.get("extra", {})}
