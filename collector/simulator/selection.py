"""Label and field selectors, from their text to a decision."""

import re
from collections.abc import Callable, Mapping

from collector.simulator.errors import bad_request

__all__ = ["Labels", "label_selector", "required_fields"]

Labels = Mapping[str, str]


def label_selector(text: str) -> Callable[[Labels], bool] | None:
    """Read a label selector, equality- or set-based; None selects everything. Raises ApiError 400."""
    requirements = [_requirement(part.strip()) for part in _PARTS.split(text) if part.strip()]
    if not requirements:
        return None
    if len(requirements) == 1:
        return requirements[0]
    return lambda labels: all(requirement(labels) for requirement in requirements)


def required_fields(text: str, supported: tuple[str, ...]) -> list[tuple[str, str, bool]]:
    """Read a field selector into (field, value, equal); raises ApiError 400 for a field that is not `supported`."""
    required = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part)
        if found is None:
            raise bad_request(f"unable to find a field selector requirement in {part!r}; expected key=value")
        field, operator, value = found.groups()
        if field not in supported:
            raise bad_request(f"field label not supported: {field}")
        required.append((field, value, operator != "!="))
    return required


_PARTS = re.compile(r",(?![^(]*\))")
_KEY = r"((?:[a-zA-Z0-9][-a-zA-Z0-9_.]*/)?[a-zA-Z0-9][-a-zA-Z0-9_.]*)"
_VALUE = r"([-a-zA-Z0-9_.]*)"
_EQUALITY = re.compile(rf"{_KEY}\s*(==|=|!=)\s*{_VALUE}")
_SET = re.compile(rf"{_KEY}\s+(in|notin)\s*\(([^()]*)\)")
_EXISTS = re.compile(rf"(!?)\s*{_KEY}")


def _requirement(text: str) -> Callable[[Labels], bool]:
    if found := _EQUALITY.fullmatch(text):
        key, operator, value = found.groups()
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _SET.fullmatch(text):
        key, operator, listed = found.groups()
        values = {value.strip() for value in listed.split(",")}
        if operator == "notin":
            return lambda labels: key not in labels or labels[key] not in values
        return lambda labels: labels.get(key) in values
    if found := _EXISTS.fullmatch(text):
        absent, key = found.groups()
        return lambda labels: (key in labels) is not bool(absent)
    raise bad_request(f'unable to parse requirement: found "{text}", expected: key, !key, key=value or key in (values)')
