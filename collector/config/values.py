"""Value types that TOML lacks, and how messages quote a value."""

import json
import re
from typing import ClassVar, Self

__all__ = ["Duration", "Listen", "Size", "quote", "shown_key"]

_QUOTE_LENGTH = 60  # characters
_BARE_KEY = re.compile(rf"[\w-]{{1,{_QUOTE_LENGTH}}}")


class Duration(float):
    """A length of time in seconds, written `30s`, `5m`, `1h30m`, `1d` or `50ms`."""

    _UNITS: ClassVar = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    _FORM = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|s|m|h|d))+", re.ASCII)
    _PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")

    @classmethod
    def parse(cls, text: object) -> Self:
        """Parse a duration; ValueError says what was expected."""
        if not isinstance(text, str) or not cls._FORM.fullmatch(text):
            raise ValueError(f'expected a duration such as "30s", "5m" or "1h", got {quote(text)}')
        return cls(sum(float(number) * cls._UNITS[unit] for number, unit in cls._PART.findall(text)))


class Size(int):
    """A number of bytes, written `64KiB`, `4MiB` or `1GiB`."""

    _UNITS: ClassVar = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    _FORM = re.compile(r"(\d{1,9})(B|KiB|MiB|GiB)", re.ASCII)

    @classmethod
    def parse(cls, text: object) -> Self:
        """Parse a size; ValueError says what was expected."""
        form = cls._FORM.fullmatch(text) if isinstance(text, str) else None
        if form is None:
            raise ValueError(f'expected a size such as "64KiB" or "4MiB", got {quote(text)}')
        return cls(int(form[1]) * cls._UNITS[form[2]])

    def __str__(self) -> str:
        """Return the size as written in a configuration, in the largest unit that fits evenly."""
        unit, scale = next((unit, scale) for unit, scale in reversed(self._UNITS.items()) if self % scale == 0)
        return f"{self // scale}{unit}" if self else "0B"


class Listen(str):
    """An address to listen on, `host:port`, `[v6]:port` or `:port`; an empty host means every interface."""

    _FORM = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([^:\s\[\]]*)):(\d{1,5})", re.ASCII)

    @classmethod
    def parse(cls, text: object) -> Self:
        """Parse an address; ValueError says what was expected."""
        form = cls._FORM.fullmatch(text) if isinstance(text, str) else None
        if form is None or int(form[3]) > 65535:
            raise ValueError(f'expected an address such as "0.0.0.0:8080" or "[::]:8080", got {quote(text)}')
        return cls(text)

    @property
    def host(self) -> str:
        """The host without brackets; empty for every interface."""
        return self.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The TCP port; 0 lets the system choose."""
        return int(self.rpartition(":")[2])


def shown_key(name: str) -> str:
    """Return a key as in TOML, on one line of at most 60 characters: bare if it can be, otherwise like `quote`."""
    return name if _BARE_KEY.fullmatch(name) else quote(name)


def quote(value: object) -> str:
    """Return a value as in TOML, on one line of at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
    return text if len(text) <= _QUOTE_LENGTH else f"{text[: _QUOTE_LENGTH - 1]}…"
