"""Parses Kubernetes label selectors.

Mistakes are thus configuration errors instead of failures of every cluster, and the simulator can use selectors.
"""

import re
from typing import NamedTuple

from collector.config.values import quote

__all__ = ["Requirement", "is_label_key", "parse_selector"]

_SPACE = " \t\r\n"
_NAME = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"(?=[^/]{1,253}/)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*/"
_VALUE = rf"(?:{_NAME})?"
_REQUIREMENT = re.compile(
    rf"""
    [ ]* (?:(?P<not>!) [ ]*)? (?P<key>(?:{_DOMAIN})?{_NAME}) (?![-\w./]) [ ]*
    (?(not) |
        (?: (?P<equality>==|=|!=) [ ]* (?P<value>{_VALUE})
          | (?P<order>[<>]) [ ]* (?P<number>[0-9]{{1,19}})
          | (?P<set>in|notin) [ ]* \( [ ]* (?P<values>{_VALUE} (?:[ ]*,[ ]*{_VALUE})*) [ ]* \)
        )?
    )
    [ ]* (?: (?P<comma>,) (?![ ]*\Z) | \Z )
    """.replace("[ ]", r"[ \t\r\n]"),
    re.VERBOSE,
)


class Requirement(NamedTuple):
    """One condition of a selector; `!` and the empty operator test whether the label exists."""

    key: str
    operator: str  # "", !, =, ==, !=, in, notin, < or >
    values: frozenset[str] = frozenset()


def parse_selector(text: str) -> list[Requirement]:
    """Parse an equality- or set-based selector; an empty one has no requirements. ValueError quotes the error."""
    if not text.strip(_SPACE):
        return []
    requirements, at = [], 0
    while True:
        found = _REQUIREMENT.match(text, at)
        if found is None or int(found["number"] or 0) >= 1 << 63:
            raise ValueError(
                'expected a label selector such as "app=gpu-plugin" or "tier in (a, b), !old",'
                f" and not {quote(text[at:].strip(_SPACE))} in it"
            )
        operator = found["not"] or found["equality"] or found["set"] or found["order"] or ""
        values = found["values"] if found["set"] else found["number"] if found["order"] else found["value"]
        parts = (values or "").split(",") if operator not in ("", "!") else ()
        requirements.append(Requirement(found["key"], operator, frozenset(part.strip(_SPACE) for part in parts)))
        at = found.end()
        if not found["comma"]:
            return requirements


def is_label_key(text: str) -> bool:
    """Return whether a text is a valid label key."""
    return re.fullmatch(rf"(?:{_DOMAIN})?{_NAME}", text) is not None
