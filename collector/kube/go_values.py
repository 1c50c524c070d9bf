"""Parses text as Kubernetes' own programs do: scalars by Go's rules, nulls as zero values.

Python's YAML reads dates and base-60 numbers where kubectl reads text, and msgspec rejects a null where Go has a zero
value. Errors about a wrong type name its path, such as `exec.args[1]`, and never its value, which may be a secret.
"""

import base64
import binascii
import functools
import math
import re
from typing import Any, TypeVar, cast

import msgspec
import yaml
from msgspec import inspect

from collector.model import GpuidError

__all__ = ["BadYamlError", "WrongTypeError", "convert", "convert_json", "load_yaml"]

_T = TypeVar("_T")

_MAP, _TEXT, _BINARY, _TIMESTAMP = (f"tag:yaml.org,2002:{name}" for name in ("map", "str", "binary", "timestamp"))
_BOOL, _INT, _FLOAT, _NULL, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null", "merge"))
_TRUE = {"y", "yes", "true", "on"}
_QUOTES = "; put it in quotes"


class BadYamlError(GpuidError):
    """A text is not YAML; the message says where or why, or is empty."""


class WrongTypeError(GpuidError):
    """A value has the wrong type; the message has its path, what was expected and what was found."""


def load_yaml(content: bytes) -> Any:
    """Return the first document, in UTF-8 or UTF-16, as dicts with text for keys; None if there is none.

    Raises BadYamlError.
    """
    try:
        loader = _Loader(content)
        try:
            return loader.get_data() if loader.check_data() else None
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        raise BadYamlError(error.reason) from None  # such as `invalid leading UTF-8 octet`
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Only the line number: a parser may quote the text around the mistake, which may be a token.
        lines = re.findall(r", line (\d+), column", str(error))
        raise BadYamlError(f"line {lines[-1]}" if lines else "") from None


def convert(value: Any, kind: type[_T]) -> _T:
    """Return a decoded document as `kind`, a struct; raises WrongTypeError."""
    try:
        return msgspec.convert(_fill(value, _type_info(cast("Any", kind)), ""), kind)
    except RecursionError:
        raise WrongTypeError("nested too deep") from None
    except msgspec.ValidationError as error:
        raise WrongTypeError(str(error)) from None


def convert_json(text: bytes | msgspec.Raw, kind: type[_T]) -> _T:
    """Return JSON as `kind`, a struct; slower than msgspec's own decoder. Raises WrongTypeError and DecodeError."""
    try:
        return convert(msgspec.json.decode(text), kind)
    except WrongTypeError as error:  # the hint about quotes is for YAML only
        raise WrongTypeError(str(error).removesuffix(_QUOTES)) from None


# YAML


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen as PyYAML was built
    """Resolves plain scalars as go.yaml.in/yaml/v2 does, which kubectl reads kubeconfigs with."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  replaced, not shared
    yaml_constructors: dict[Any, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        """Return a mapping with its keys as text; a non-scalar key, as in `{{ template }}`, becomes `{…}`."""
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)
        return {
            _key(self.construct_object(key, deep=True)): self.construct_object(value, deep=deep)
            for key, value in node.value
        }


def _key(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "{…}" if isinstance(value, (dict, list)) else str(value)


def _number(loader: Any, node: yaml.ScalarNode) -> int | float | str:
    text = str(loader.construct_scalar(node))
    plain = text.replace("_", "").lower()
    sign, digits = (plain[0], plain[1:]) if plain[:1] in ("+", "-") else ("", plain)
    octal = re.fullmatch(r"0[0-7]+", digits)
    try:
        return int(sign + (f"0o{digits}" if octal else digits), 0)
    except ValueError:
        pass
    try:
        number = float(plain.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:  # such as `0x_`
        return text
    return text if math.isinf(number) and "inf" not in plain else number


def _binary(loader: Any, node: yaml.ScalarNode) -> str:
    try:
        return base64.b64decode("".join(str(loader.construct_scalar(node)).split()), validate=True).decode(
            "utf-8", "replace"
        )
    except binascii.Error:
        raise yaml.constructor.ConstructorError(None, None, "expected base64", node.start_mark) from None


def _unknown(loader: Any, node: yaml.Node) -> Any:
    """Return the value of an unknown tag as if it had no tag."""
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


def _set_up() -> None:
    for tag, pattern, first in (
        (
            _BOOL,
            r"(?:y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF)$",
            "yYtToOnNfF",
        ),
        (_INT, r"[-+]?0(?:[xX][0-9a-fA-F_]+|[oO][0-7_]+|[bB][01_]+)$", "-+0"),
        (_FLOAT, r"[-+]?(?:\.[0-9][0-9_]*|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
        (_FLOAT, r"(?:\.(?:nan|NaN|NAN)|[-+]?\.(?:inf|Inf|INF))$", "-+."),
        (_NULL, r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
        (_MERGE, r"<<$", "<"),
    ):
        _Loader.add_implicit_resolver(tag, re.compile(pattern), list(first))
    safe = yaml.SafeLoader.yaml_constructors
    constructors: tuple[tuple[Any, Any], ...] = (
        (_MAP, safe[_MAP]),
        ("tag:yaml.org,2002:seq", safe["tag:yaml.org,2002:seq"]),
        (_NULL, lambda _loader, _node: None),
        (_BOOL, lambda loader, node: str(loader.construct_scalar(node)).lower() in _TRUE),
        (_INT, _number),
        (_FLOAT, _number),
        (_TEXT, lambda loader, node: loader.construct_scalar(node)),
        (_TIMESTAMP, lambda loader, node: loader.construct_scalar(node)),
        (_BINARY, _binary),
        (None, _unknown),
    )
    for tag, construct in constructors:
        _Loader.add_constructor(tag, construct)


_set_up()


# Types


@functools.cache
def _type_info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _fill(value: Any, info: inspect.Type, at: str) -> Any:
    """Return the value with zero values in place of nulls; raises WrongTypeError."""
    if isinstance(info, inspect.UnionType):
        if value is None:
            return None
        kinds = [kind for kind in info.types if not isinstance(kind, inspect.NoneType)]
        if len(kinds) > 1:
            return value
        (info,) = kinds
    if isinstance(info, inspect.RawType):
        return msgspec.Raw(msgspec.json.encode(value))
    if isinstance(info, inspect.StructType):
        return _fill_struct(value, info, at)
    if isinstance(info, (inspect.ListType, inspect.VarTupleType, inspect.CollectionType)):
        _expect(value, (list, type(None)), "a list", at)
        return [_fill(item, info.item_type, f"{at}[{index}]") for index, item in enumerate(value or ())]
    if isinstance(info, inspect.DictType):
        _expect(value, (dict, type(None)), "a mapping", at)
        return {key: _fill(item, info.value_type, _join(at, key)) for key, item in (value or {}).items()}
    for kind, expected, words in _SCALARS:
        if isinstance(info, kind):
            _expect(value, (expected, type(None)), words, at)
            return expected() if value is None else value
    return value


def _fill_struct(value: Any, info: inspect.StructType, at: str) -> dict[str, Any]:
    _expect(value, (dict, type(None)), "a mapping", at)
    filled = {}
    for field in info.fields:
        name = field.encode_name
        if value is not None and name not in value and field.required:
            raise WrongTypeError(f"{_join(at, name)}: missing")
        given = None if value is None else value.get(name)
        if given is not None or field.required:
            filled[name] = _fill(given, field.type, _join(at, name))
    return filled


_SCALARS: tuple[tuple[type[inspect.Type], type, str], ...] = (
    (inspect.StrType, str, "text"),
    (inspect.BoolType, bool, "true or false"),
    (inspect.IntType, int, "a whole number"),
    (inspect.FloatType, float, "a number"),
)


def _expect(value: Any, kinds: tuple[type, ...], words: str, at: str) -> None:
    if type(value) in kinds or (float in kinds and type(value) is int):
        return
    quote = _QUOTES if words == "text" and isinstance(value, (bool, int, float)) else ""
    raise WrongTypeError(f"{at}{': ' if at else ''}expected {words}, got {_describe(value)}{quote}")


def _describe(value: object) -> str:
    for kind, words in ((bool, "true or false"), ((int, float), "a number"), (str, "text"), (dict, "a mapping")):
        if isinstance(value, kind):
            return words
    return "a list" if isinstance(value, list) else "null"


def _join(at: str, name: object) -> str:
    return f"{at}.{name}" if at else str(name)
