"""Tells whether a file is still what it was, without reading it."""

from pathlib import Path

__all__ = ["file_stamp"]


def file_stamp(file: Path | str) -> tuple[int, int, int] | None:
    """Return a value that is another one once the file was written or replaced; None while there is no file."""
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
