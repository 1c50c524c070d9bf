"""Loads the configuration: turns a TOML file into settings or a one-line error."""

import difflib
import functools
import logging
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from collector.config.settings import ClusterSettings, Config, DefaultSettings
from collector.config.sinks import SinkSettings
from collector.config.values import Duration, Listen, Size, quote, shown_key
from collector.model import GpuidError
from collector.text import describe_os_error, one_line

__all__ = ["ConfigError", "load", "parse"]

log = logging.getLogger(__name__)

RENAMED_SERVER_KEYS = {"tls_cert": "cert_file", "tls_key": "key_file", "client_ca": "client_ca_file"}
RENAMED_SINK_KEYS = {"postgres": {"dsn": "url"}}  # by type

# Shorter ones are typing errors that would overload every node or make everything time out. Only files are checked,
# because tests use shorter durations.
_MIN_DURATIONS = {
    "refresh": "10s",
    "exec_timeout": "1s",
    "retention": "1m",
    "connect_timeout": "100ms",
    "read_timeout": "100ms",
    "write_timeout": "100ms",
    "timeout": "100ms",
    "statement_timeout": "100ms",
}

_TOML_ERROR_ENDS = 200  # characters of an error of TOML that are shown of its start and of its end, which says where

# msgspec's errors name Python's types; users know those of TOML.
_TYPE_NAME = re.compile(r"`(\w+(?: \| \w+)*)`")
_TYPE_NAMES = {
    "array": "an array",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "a table",
    "str": "a string",
}


class ConfigError(GpuidError):
    """The configuration is invalid; the text names the file, the key and what was expected."""


def load(path: Path, content: bytes | None = None, *, warn: bool = True, may_be_empty: bool = False) -> Config:
    """Read the configuration file at `path`, optionally warning about old keys; raises ConfigError.

    `content` is the file's content, if already read; with `may_be_empty`, it may have no clusters yet.
    """
    try:
        found = path.read_bytes() if content is None else content
        text = found.decode("utf-8-sig")  # editors on Windows put a byte order mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {describe_os_error(error, 'expected UTF-8 text')}") from error
    return parse(text, path, warn=warn, may_be_empty=may_be_empty)


def parse(text: str, path: Path, *, warn: bool = True, may_be_empty: bool = False) -> Config:
    """Parse TOML text; `path` is for messages and the base of relative paths. Raises ConfigError."""
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # of TOML, or of a number with thousands of digits
        why = one_line(error)
        if len(why) > 2 * _TOML_ERROR_ENDS:
            why = f"{why[:_TOML_ERROR_ENDS]}…{why[-_TOML_ERROR_ENDS:]}"
        raise ConfigError(f"{path}: {why}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: arrays or tables nested too deep") from error
    try:
        old = _rename_old_keys(document)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if old and warn:
        log.warning("%s: renamed keys: %s; the old names will be removed in 1.0", path, ", ".join(old))
    for key, name, known in _unknown_keys(document, Config, ""):
        nearest = difflib.get_close_matches(name, known, n=1)
        raise ConfigError(f"{path}: {key}: unknown key" + (f'; did you mean "{nearest[0]}"?' if nearest else ""))
    base = path.absolute().parent  # of a link itself: a ConfigMap's files are links into a hidden folder
    try:
        config = _settings(document, base)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not config.clusters and not may_be_empty:
        raise ConfigError(f"{path}: clusters: expected at least one [[clusters]] table")
    try:
        return _resolved(config, base)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _rename_old_keys(document: dict[str, Any]) -> list[str]:
    """Rename old keys in place and return the renamings; raises ValueError if both names of a key are given."""
    sinks = document.get("sinks", {})
    tables = [("server", document.get("server"), RENAMED_SERVER_KEYS)]
    if isinstance(sinks, dict):
        tables += [
            (_full_key("sinks", name), sink, RENAMED_SINK_KEYS.get(str(sink.get("type")), {}))
            for name, sink in sinks.items()
            if isinstance(sink, dict)
        ]
    found = []
    for at, table, names in tables:
        for old, new in names.items():
            if isinstance(table, dict) and old in table:
                if new in table:
                    raise ValueError(f"{at}.{old}: is the old name of {new}; remove one of them")
                table[new] = table.pop(old)
                found.append(f"{at}.{old} is now {new}")
    return found


def _settings(document: dict[str, Any], base: Path) -> Config:
    """Convert table by table, so that errors name the table; raises ValueError."""
    _convert(document.get("defaults", {}), DefaultSettings, "defaults", base)
    _check_choices(document.get("defaults", {}), "defaults")
    clusters = _convert(document.get("clusters", []), list[dict[str, Any]], "clusters", base)
    for index, cluster in enumerate(clusters):
        _convert(cluster, ClusterSettings, f"clusters[{index}]", base)
        _check_choices(cluster, f"clusters[{index}]")
        clusters[index] = _inherit(document.get("defaults", {}), cluster)
    for name, sink in _convert(document.get("sinks", {}), dict[str, Any], "sinks", base).items():
        key = _full_key("sinks", name)
        _check_type(sink, f"{key}.type")
        _convert(sink, SinkSettings, key, base)
    config: Config = _convert(document | {"clusters": clusters}, Config, "", base)
    for key, minimum, text in _too_short(document, ""):
        raise ValueError(f"{key}: expected at least {quote(minimum)}, got {quote(text)}")
    return config


def _check_choices(table: Mapping[str, Any], key: str) -> None:
    """Reject keys of a cluster that exclude each other, and empty ones."""
    if {"preset", "sources"} <= table.keys():
        raise ValueError(f"{key}: expected either preset or sources, not both")
    if table.get("sources") == []:
        raise ValueError(f"{key}.sources: expected at least one source")
    for index, source in enumerate(table.get("sources", ())):
        if source.get("command") == []:
            raise ValueError(f"{key}.sources[{index}].command: expected at least a program name")
    if table.get("name") == "":
        raise ValueError(f"{key}.name: expected printable characters in one line, got {quote('')}")


def _check_type(sink: object, key: str) -> None:
    """Reject an unknown type of sink, and list the known ones."""
    kind = sink.get("type") if isinstance(sink, Mapping) else None
    types = [str(one.__struct_config__.tag) for one in get_args(SinkSettings)]
    if isinstance(kind, str) and kind not in types:
        (nearest,) = difflib.get_close_matches(kind, types, n=1, cutoff=0.0)
        raise ValueError(f'{key}: expected one of {", ".join(types)}, got {quote(kind)}; did you mean "{nearest}"?')


def _full_key(at: str, name: str) -> str:
    """Return the key of a value in the table `at`, which is empty for the document itself."""
    return f"{at}.{shown_key(name)}" if at else shown_key(name)


def _too_short(value: object, at: str) -> Iterator[tuple[str, str, str]]:
    """Yield the durations of a valid document that are too short, as (full key, minimum, given)."""
    inner = value.items() if isinstance(value, Mapping) else ()
    for key, item in inner:
        where = _full_key(at, key)
        if (minimum := _MIN_DURATIONS.get(key)) and isinstance(item, str):
            if Duration.parse(item) < Duration.parse(minimum):
                yield where, minimum, item
        else:
            yield from _too_short(item, where)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _too_short(item, f"{at}[{index}]")


def _inherit(defaults: Mapping[str, Any], cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cluster's keys, completed with the defaults; a preset replaces sources and vice versa."""
    named = {"preset", "sources"} if {"preset", "sources"} & cluster.keys() else set()
    return {key: value for key, value in defaults.items() if key not in named} | dict(cluster)


def _unknown_keys(value: object, kind: Any, at: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield unknown keys of a document, as (full key, key, known keys)."""
    info = _struct(msgspec.inspect.type_info(kind) if isinstance(kind, type) else kind, value)
    if isinstance(info, msgspec.inspect.StructType) and isinstance(value, Mapping):
        fields = {field.encode_name: field.type for field in info.fields}
        for name, inner in value.items():
            key = _full_key(at, name)
            if name in fields:
                yield from _unknown_keys(inner, fields[name], key)
            elif name != info.tag_field:
                yield key, name, list(fields)
    elif isinstance(info, msgspec.inspect.DictType) and isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _unknown_keys(inner, info.value_type, _full_key(at, name))
    elif isinstance(info, msgspec.inspect.VarTupleType) and isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unknown_keys(inner, info.item_type, f"{at}[{index}]")


def _struct(info: Any, value: object) -> Any:
    """Return the struct of a union that the table's tag selects."""
    if not isinstance(info, msgspec.inspect.UnionType) or not isinstance(value, Mapping):
        return info
    structs = [one for one in info.types if isinstance(one, msgspec.inspect.StructType)]
    return next((one for one in structs if one.tag in (None, value.get(one.tag_field))), info)


def _convert(value: object, kind: Any, at: str, base: Path) -> Any:
    """Return the value as `kind`; raises ValueError as `key: expected …`."""
    try:
        return msgspec.convert(value, kind, dec_hook=functools.partial(_decode, base))
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        key = (at + where.rstrip("`").replace("[...]", ".*")).lstrip(".")
        message = re.sub(r"^Object missing required field `(\w+)`", r'expected a key "\1" in the table', message)
        if message.startswith("Invalid enum value"):
            message = _expected_choice(kind, value, where)
        message = _TYPE_NAME.sub(_type_names, message[:1].lower() + message[1:])
        joint = "." if re.match(r'[\w.-]+("[^"]*["…])?: ', message) else ": "  # a rule between keys names its own key
        raise ValueError(f"{key}{joint if key else ''}{message}") from error


def _type_names(found: re.Match[str]) -> str:
    names = [name for name in found[1].split(" | ") if name != "null"]
    return " or ".join(_TYPE_NAMES[name] for name in names) if set(names) <= _TYPE_NAMES.keys() else found[0]


def _expected_choice(kind: Any, value: Any, where: str) -> str:
    """Return what was expected instead of the value at `where` in a table, which is not one of the choices."""
    info: Any = msgspec.inspect.type_info(kind)
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", where):
        if name:
            fields = _struct(info, value).fields
            info = next(field.type for field in fields if field.encode_name == name)
        else:
            info = info.item_type
        value = value[name or int(index)]
    kinds = info.types if isinstance(info, msgspec.inspect.UnionType) else [info]
    choices: list[object] = []
    for one in kinds:
        if isinstance(one, msgspec.inspect.LiteralType):
            choices += one.values
        elif isinstance(one, msgspec.inspect.EnumType):
            choices += [member.value for member in one.cls]
    return f"expected one of {', '.join(map(str, choices))}, got {quote(value)}"


def _decode(base: Path, kind: Any, value: object) -> object:
    """Return a value of a type that TOML does not have."""
    if kind is Duration or kind is Listen or kind is Size:
        return kind.parse(value)
    if kind is Path:
        if not isinstance(value, str):
            raise ValueError(f"expected a path, got {quote(value)}")
        return _absolute(value, base)
    raise NotImplementedError(kind)


def _resolved(config: Config, base: Path) -> Config:
    """Return the configuration with absolute kubeconfig paths; one string may contain several."""
    clusters = tuple(
        msgspec.structs.replace(
            cluster,
            kubeconfig=os.pathsep.join(
                str(_absolute(part, base, f"clusters[{index}].kubeconfig: "))
                for part in cluster.kubeconfig.split(os.pathsep)
                if part
            ),
        )
        if cluster.kubeconfig
        else cluster
        for index, cluster in enumerate(config.clusters)
    )
    return msgspec.structs.replace(config, clusters=clusters)


def _absolute(path: str, base: Path, key: str = "") -> Path:
    """Return an absolute path: `~` is the home directory, other paths are relative to the configuration file."""
    try:
        return base / Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{key}expected the path of a user with a home directory, got {quote(path)}") from error
