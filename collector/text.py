"""Short texts: foreign text that is safe in one line, counts with their nouns, and why the system refused."""

__all__ = ["counted", "describe_os_error", "one_line"]


def one_line(value: object, limit: int | None = None) -> str:
    """Return a value as text without line breaks or control sequences, of at most `limit` characters, cut by "…".

    White space is folded, what does not print is dropped; None is empty.
    """
    text = "" if value is None else str(value)
    line = " ".join("".join(letter for letter in text if letter.isprintable() or letter.isspace()).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 GPU", "1,200 GPUs", "2 batches"."""
    ending = "" if count == 1 else "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{ending}"


def describe_os_error(error: BaseException, default: str) -> str:
    """Return the system's reason for an error in lower case, such as "no such file or directory"; else `default`."""
    return str(getattr(error, "strerror", None) or default).lower() if isinstance(error, OSError) else default
