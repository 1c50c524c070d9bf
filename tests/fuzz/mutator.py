"""Makes new inputs from old ones: cheap changes of bytes, texts and the values around them, in this process."""

import random
from collections.abc import Sequence
from typing import Any

__all__ = ["MAX_LENGTH", "Mutator"]

MAX_LENGTH = 8192  # bytes or characters of one value
HOSTILE = (
    *(
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xc2",
        b"\x1b[2J",
        b"\r\n",
        b"\n",
        b"\\",
        b'"',
        b"'",
        b"%00",
    ),
    *(b"-1", b"0", b"9" * 20, b"9" * 400, b"1e999", b"NaN", b"null", b"true", b"0x", b"18446744073709551616", b"1.5"),
    *(
        b"[" * 600,
        b'{"a":' * 600,
        b"{}",
        b"[]",
        b"[null]",
        b"<a>",
        b"</a>",
        b"<!--",
        b"]]>",
        b"&#0;",
        b"&lt;",
        b"<![CDATA[",
    ),
    *(b"://", b"@", b"[::1", b"%zz", b"..", b"~", b"=", b";", b",", b"\\ud800", b"\\u0000", "\u202e\u2028é😀".encode()),
    *(b"9999-12-31T23:59:59-23:59", b"0001-01-01T00:00:00Z", b"Thu, 01 Jan 1970 00:00:00 GMT"),
)
HOSTILE_TEXTS = (
    *(one.decode("utf-8", "surrogateescape") for one in HOSTILE),
    "\ud800",
    "\udfff",
    "٣",
    "ß",
    "\u0131",
    "\x85",
)
NUMBERS = (0, 1, -1, 2, 127, 255, 1 << 31, (1 << 53) + 1, 1 << 63, 1 << 64, -(1 << 63) - 1)
FLOATS = (0.0, -0.0, -1.0, 0.5, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 253402300800.0, 5e-324)


class Mutator:
    """Draws from a population of inputs, which grows; the same seed makes the same inputs."""

    def __init__(self, population: Sequence[Any], rng: random.Random) -> None:
        self.population = list(population)
        self._rng = rng

    def next(self) -> Any:
        """Return an input one or a few changes away from one of the population."""
        rng = self._rng
        value = self._pick()
        for _ in range(1 << rng.choice((0, 0, 0, 1, 2))):
            value = self._changed(value, self._pick())
        return value

    def _pick(self) -> Any:
        return self.population[int(self._rng.random() * len(self.population))]

    def _changed(self, value: Any, other: Any) -> Any:
        """Return a value of the same type, changed; `other` is one of the population, with parts to take over."""
        kind = type(value)
        if kind is bytes:
            return self._sequence(value, other if type(other) is bytes else b"", HOSTILE, 256, bytes)
        if kind is str:
            return self._sequence(value, other if type(other) is str else "", HOSTILE_TEXTS, 0x250, "".join)
        if kind is tuple:
            return self._tuple(value, other if type(other) is tuple and len(other) == len(value) else value)
        if kind is list:
            return self._list(value, other if type(other) is list else [])
        if kind is dict:
            return self._dict(value, other if type(other) is dict else {})
        if kind is bool:
            return not value
        if kind is int:
            return self._rng.choice((value + 1, value - 1, value * 2, -value, *NUMBERS))
        if kind is float:
            return self._rng.choice((value + 1, -value, value / 2, *FLOATS))
        return value

    def _sequence(self, value: Any, other: Any, hostile: Sequence[Any], letters: int, join: Any) -> Any:
        """Return bytes or a text with a part replaced, removed, repeated or taken from another one."""
        rng = self._rng
        size = len(value)
        at = int(rng.random() * (size + 1))
        length = min(size - at, (1, 1, 2, 4, 16, 64)[int(rng.random() * 6)])
        match int(rng.random() * 8):
            case 0:  # other letters
                letter = int(rng.random() * letters)
                new = join([letter if letters == 256 else chr(letter)])
                value = value[:at] + new + value[at + 1 :]
            case 1 | 2:
                value = (
                    value[:at] + hostile[int(rng.random() * len(hostile))] + value[at + length * (rng.random() < 0.5) :]
                )
            case 3:
                value = value[:at] + value[at + length :]
            case 4:
                value = value[:at] + value[at : at + length] * 2 + value[at + length :]
            case 5:
                place = int(rng.random() * (len(other) + 1))
                value = value[:at] + other[place : place + 4 * length + 1] + value[at + length :]
            case 6:
                place = int(rng.random() * (size + 1))
                value = value[:at] + value[place : place + length] + value[at + length :]
            case _:
                value = value[:at] if rng.random() < 0.3 else value[:at] + other[-(size - at) :]
        return value[:MAX_LENGTH]

    def _tuple(self, value: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return a tuple with one field changed; numbers and the like have a range, so they are taken over."""
        at = int(self._rng.random() * len(value)) if value else 0
        fields = list(value)
        if fields:
            simple = not isinstance(value[at], bytes | str | tuple | list | dict)
            fields[at] = other[at] if simple or self._rng.random() < 0.2 else self._changed(value[at], other[at])
        return tuple(fields)

    def _list(self, value: list[Any], other: list[Any]) -> list[Any]:
        rng = self._rng
        found = list(value)
        at = int(rng.random() * (len(found) + 1))
        match int(rng.random() * 5):
            case 0:
                del found[at : at + 1]
            case 1:
                found[at:at] = found[at : at + 1]
            case 2:
                found[at:at] = other[: 1 + int(rng.random() * 3)]
            case _ if at < len(found):
                found[at] = self._changed(found[at], rng.choice(other or found))
            case _:
                rng.shuffle(found)
        return found[:64]

    def _dict(self, value: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
        found = dict(value)
        names = list(found)
        if not names or self._rng.random() < 0.2:
            return dict(list({**found, **other}.items())[:64])
        name = self._rng.choice(names)
        if self._rng.random() < 0.1:
            del found[name]
        else:
            found[name] = self._changed(found[name], other.get(name, found[name]))
        return found
