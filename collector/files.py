"""What is asked of files: whether one has changed, and the secret that is in it."""

from pathlib import Path

from collector.model import GpuidError
from collector.text import describe_os_error

__all__ = ["UnreadableFileError", "file_stamp", "read_secret"]


class UnreadableFileError(GpuidError):
    """A file gives no secret; the text is the reason alone, without the path and without anything of the content."""


def file_stamp(file: Path | str) -> tuple[int, int, int] | None:
    """Return a value that changes when the file is written or replaced; None while there is no file."""
    try:
        status = Path(file).stat()
    except (OSError, ValueError):  # ValueError: no path at all, such as one with a null byte
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_secret(file: Path | str) -> str:
    """Return the text of a file without the white space around it, which may be empty; raises UnreadableFileError."""
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UnreadableFileError(describe_os_error(error, "expected UTF-8 text")) from None
