"""Evaluates label and field selectors."""

import re
from collections.abc import Callable, Mapping

from collector.config import Requirement, parse_selector
from collector.simulator.errors import bad_request

__all__ = ["Labels", "label_selector", "required_fields"]

Labels = Mapping[str, str]

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")


def label_selector(text: str) -> Callable[[Labels], bool] | None:
    """Return a label selector as a predicate, None if it selects everything; raises ApiError 400."""
    try:
        requirements = [_predicate(requirement) for requirement in parse_selector(text)]
    except ValueError as error:
        raise bad_request(f"unable to parse requirement: {error}") from error
    if not requirements:
        return None
    if len(requirements) == 1:
        return requirements[0]
    return lambda labels: all(requirement(labels) for requirement in requirements)


def required_fields(text: str, supported: tuple[str, ...]) -> list[tuple[str, str, bool]]:
    """Return a field selector as (field, value, equal); raises ApiError 400 for a field that is not `supported`."""
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


def _predicate(requirement: Requirement) -> Callable[[Labels], bool]:
    key, operator, values = requirement
    match operator:
        case "" | "!":
            return lambda labels: (key in labels) is (operator == "")
        case "!=" | "notin":
            return lambda labels: labels.get(key) not in values
        case "<" | ">":
            (limit,) = map(int, values)
            return lambda labels: (
                _INTEGER.fullmatch(labels.get(key, "")) is not None
                and (int(labels[key]) < limit if operator == "<" else int(labels[key]) > limit)
            )
        case _:
            return lambda labels: labels.get(key) in values
