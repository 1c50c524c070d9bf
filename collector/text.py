"""Text from elsewhere, made fit for one line of an error, a log or a terminal."""

__all__ = ["one_line"]


def one_line(value: object, limit: int | None = None) -> str:
    """Write a value so that it can neither break its line nor steer a terminal; at most `limit` characters, cut by "…".

    White space is folded, what does not print is dropped; None is empty.
    """
    text = "" if value is None else str(value)
    line = " ".join("".join(letter for letter in text if letter.isprintable() or letter.isspace()).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"
