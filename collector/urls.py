"""Parses foreign URLs."""

import ipaddress
import re

from yarl import URL

__all__ = ["InvalidUrlError", "is_host", "parse_url"]

_MAX_HOST_LENGTH = 253  # characters of a DNS name
_LABEL = re.compile(r"[\w-]{1,63}", re.ASCII)
_NUMBER = re.compile(r"\d+|0[xX][0-9A-Fa-f]*", re.ASCII)


class InvalidUrlError(ValueError):
    """A text is not a URL; it is not quoted, as it may contain a secret."""


def parse_url(text: str) -> URL:
    """Return the URL; raises only InvalidUrlError."""
    try:
        return URL(text)
    except (ValueError, IndexError):  # the latter for a user with brackets and no host after it: "http://[]@"
        raise InvalidUrlError("not a URL") from None


def is_host(name: str) -> bool:
    """Return whether a text is a valid ASCII host name or address: Python raises odd errors for others."""
    labels = name.removesuffix(".").split(".")
    try:
        if ":" in name:
            ipaddress.IPv6Address(name)
            return True
        if _NUMBER.fullmatch(labels[-1]):  # the resolver accepts 127.1 as an address, but HTTP clients do not
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return len(name) <= _MAX_HOST_LENGTH and all(map(_LABEL.fullmatch, labels))
