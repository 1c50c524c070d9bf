"""Valid values in the XML of nvidia-smi, and whether one in a damaged document is unambiguous."""

import functools
import re
from html import escape

__all__ = ["GPU_LOST", "MAX_VALUE_LENGTH", "PLACEHOLDER", "RESET_REQUIRED", "is_absent", "is_certain", "known_value"]

MAX_VALUE_LENGTH = 128  # characters

GPU_LOST = "GPU is lost"  # instead of each value that the driver can no longer query
RESET_REQUIRED = "GPU requires reset"  # likewise, until the GPU was reset
PLACEHOLDER = re.compile(rb"GPU (?:is lost|requires reset)")  # either of them: a common beginning is found faster

# What the tool prints instead of a value.
_ABSENT = re.compile(
    r"\[?(?:|-|n/a|none|null|unknown|unknown error(?: \(\d+\))?|err!|error|no access|no data|timeout|uninitialized"
    r"|(?:.* )?not (?:available|supported|found|ready)|driver not loaded|corrupted inforom|gpu is lost|reset required"
    r"|gpu requires reset|insufficient \w+|(?:requested functionality has been )?deprecated|gpu access blocked.*"
    r"|unable to .*|.*redacted.*|[x*#?]+(?:-[x*#?]+)*)\]?",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=4096)  # the same few values come from all nodes
def known_value(text: str) -> str | None:
    """Return a short text without surrounding space; None if it means that there is no value."""
    value = text.strip()
    return None if is_absent(value) else value


def is_absent(text: str) -> bool:
    """Return whether a text of the tool means that there is no value."""
    return _ABSENT.fullmatch(text) is not None


def is_certain(value: str, name: str, text: bytes) -> bool:
    """Return whether the named element occurs in a text exactly once, with this value between its tags."""
    start, end = f"<{name}>".encode(), f"</{name}>".encode()
    if text.count(start) != 1:
        return False
    return (
        re.search(re.escape(start) + rb"\s*" + re.escape(escape(value, quote=False).encode()) + rb"\s*" + end, text)
        is not None
    )
