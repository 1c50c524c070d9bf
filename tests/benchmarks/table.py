"""One row of the results, and how numbers are written in it."""

from typing import NamedTuple

__all__ = ["HEAD", "Row", "amount", "duration", "markdown", "times"]


class Row(NamedTuple):
    """A comparison within one run; every cell is text. `ratio` is how many times better ours is, where that is said."""

    what: str
    ours: str
    peer: str
    ratio: str
    aim: str = ""


HEAD = "| what | gpuid | peer | ratio | aim |\n|---|---|---|---|---|"


def markdown(row: Row) -> str:
    """Write a row of the table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def duration(seconds: float) -> str:
    """Write a time with three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def amount(size: float) -> str:
    """Write a number of bytes with three digits."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"


def times(ratio: float) -> str:
    """Write a ratio."""
    return f"{ratio:,.0f} ×" if ratio >= 100 else f"{ratio:.3g} ×"
