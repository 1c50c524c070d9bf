"""Marks the methods that the control server offers, and decodes their arguments from JSON."""

import inspect
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

__all__ = ["Action", "Done", "accepts", "action", "actions"]

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Done(msgspec.Struct, frozen=True):
    """The result of an action."""

    message: str  # one sentence
    cluster: str
    nodes: tuple[str, ...] = ()  # that it changed, the destination last
    gpus: tuple[str, ...] = ()  # UUIDs of the GPUs that it changed


class Action(NamedTuple):
    """One method that the control server offers."""

    name: str
    summary: str
    parameters: dict[str, str]  # name -> "type = default"
    arguments: type[msgspec.Struct]

    def decode(self, body: bytes) -> dict[str, Any]:
        """Return the keyword arguments in a JSON body; raises ValueError with one line."""
        try:
            values = msgspec.json.decode(body or b"{}", type=self.arguments)
        except msgspec.DecodeError as error:
            expected = ", ".join(self.parameters) or "no keys"
            raise ValueError(f"{self.name}: {error}; the body is a JSON object of: {expected}") from error
        given = {name: getattr(values, name) for name in self.parameters}
        return {name: value for name, value in given.items() if value is not msgspec.UNSET}


def action(method: _Method) -> _Method:
    """Offer a method on the control server."""
    _OFFERED.add(method.__qualname__)
    return method


def accepts(fields: type[msgspec.Struct]) -> Callable[[_Method], _Method]:
    """Accept any fields of a structure as further keywords of a method, of their types."""

    def mark(method: _Method) -> _Method:
        _KEYWORDS[method.__qualname__] = fields
        return method

    return mark


def actions(kind: type) -> dict[str, Action]:
    """Return the offered methods of a class and its bases by name, in the order of their definition."""
    return {
        name: _describe(name, method)
        for base in kind.__mro__
        for name, method in vars(base).items()
        if getattr(method, "__qualname__", "") in _OFFERED
    }


_OFFERED: set[str] = set()
_KEYWORDS: dict[str, type[msgspec.Struct]] = {}  # what other keywords a method takes, by its name


def _describe(name: str, method: Callable[..., Any]) -> Action:
    hints = typing.get_type_hints(method)
    fields: list[Any] = []
    parameters = {}
    for parameter in list(inspect.signature(method).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            for field in msgspec.structs.fields(_KEYWORDS[method.__qualname__]):
                (given,) = (one for one in typing.get_args(field.type) if one is not type(None))
                fields.append((field.name, given | msgspec.UnsetType, msgspec.UNSET))
                parameters[field.name] = given.__name__
            continue
        kind = hints[parameter.name]
        written = inspect.formatannotation(kind).replace("collector.simulator.faults.", "")
        if parameter.default is parameter.empty:
            fields.append((parameter.name, kind))
            parameters[parameter.name] = written
        else:
            fields.append((parameter.name, kind, parameter.default))
            parameters[parameter.name] = f"{written} = {msgspec.json.encode(parameter.default).decode()}"
    arguments = msgspec.defstruct(name, fields, forbid_unknown_fields=True, kw_only=True)
    return Action(name, (inspect.getdoc(method) or "").partition("\n")[0], parameters, arguments)
