"""What a row of the table of decoders is."""

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from hypothesis import strategies as st

__all__ = ["FOLDER", "RESOURCES", "Target", "Targets", "bytes_target", "check_message", "refusing", "text_target"]

MAX_MESSAGE_LENGTH = 1000  # characters of a message to people about what could not be decoded
FOLDER = Path(tempfile.mkdtemp(prefix="gpuid-fuzz-"))  # for files that are decoded
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
RESOURCES = contextlib.ExitStack()  # to be closed by who runs targets: an exit waits for threads before `atexit` does

T = TypeVar("T")


class Target(NamedTuple, Generic[T]):
    """One decoder."""

    decode: Callable[[T], object]
    inputs: st.SearchStrategy[T]
    errors: tuple[type[Exception], ...] = ()  # that it documents

    def run(self, value: T) -> None:
        """Decode one input; raises what the decoder does not document."""
        with refusing(*self.errors):
            self.decode(value)


@contextlib.contextmanager
def refusing(*errors: type[Exception]) -> Iterator[None]:
    """Let a block end with one of these errors, and check its message."""
    try:
        yield
    except errors as error:
        check_message(str(error))


def check_message(text: str) -> None:
    """Check that a message about foreign input can be logged, whatever that was."""
    assert text.isprintable(), text
    assert len(text) <= MAX_MESSAGE_LENGTH, text


def bytes_target(
    decode: Callable[[bytes], object], inputs: st.SearchStrategy[bytes], *errors: type[Exception]
) -> Target[bytes]:
    """Return the target of a decoder of bytes."""
    return Target(decode, inputs, errors)


def text_target(
    decode: Callable[[str], object], inputs: st.SearchStrategy[str], *errors: type[Exception]
) -> Target[str]:
    """Return the target of a decoder of text."""
    return Target(decode, inputs, errors)


Targets = dict[str, Target[Any]]
