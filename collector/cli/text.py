"""Text from elsewhere, made fit for one line of a terminal."""

__all__ = ["one_line"]


def one_line(value: object) -> str:
    """Write a value so that it can neither break its line nor steer the terminal; None is empty."""
    text = "" if value is None else " ".join(str(value).split())
    return "".join(filter(str.isprintable, text))
