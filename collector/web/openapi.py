"""Builds the API's OpenAPI 3.1 document from the table of operations and the types of their rows."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from collector import __version__
from collector.views.columns import Row
from collector.web.operation import Operation
from collector.web.operations import OPERATIONS
from collector.web.problem import MEDIA_TYPE, Code, Problem, status_of
from collector.web.query import Fields, Parameter

__all__ = ["openapi"]

COMMON_ERRORS = (
    Code.INVALID_REQUEST,
    Code.INVALID_PARAMETER,
    Code.UNKNOWN_PARAMETER,
    Code.UNAUTHORIZED,
    Code.TOO_MANY_REQUESTS,
    Code.UNAVAILABLE,
)
_REF = "#/components/schemas/{name}"
_CSV = {"text/csv": {"schema": {"type": "string"}}}
_TAGS = {
    "fleet": "Clusters, nodes and GPUs as they are now.",
    "history": "Where GPUs were, and what changed.",
    "marks": "People's notes on GPUs.",
    "lookup": "Look-up of ids.",
    "about": "This API.",
}

_Json = dict[str, Any]


@functools.cache
def openapi() -> _Json:
    """Return the document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gpuid",
            "summary": "Where every physical NVIDIA GPU in many Kubernetes clusters is and was.",
            "description": (
                "Times are RFC 3339 in UTC; parameters also take ages such as `2h` and `yesterday`. Unknown values are"
                " null. Lists come in pages: `next` of one page is `after` of the following one, and the `Link` header"
                " contains it. Errors are RFC 9457 problems with a stable `code`. GET responses carry an `ETag`,"
                " except CSV without `limit`, which is streamed."
            ),
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{}, {"basic": []}, {"bearer": []}],
        "paths": _paths(),
        "components": {
            "schemas": dict(_schemas()),
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _paths() -> _Json:
    paths: _Json = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return paths


def _operation(operation: Operation) -> _Json:
    found: _Json = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [_parameter(one) for one in operation.parameters],
        "responses": {"200": _answer(operation), **_errors(operation)},
    }
    if operation.method == "GET":
        found["responses"]["304"] = {"description": "The client's copy is current (`If-None-Match`)."}
    if operation.body is not None:
        content = {
            media: {"schema": {"type": "string"} if kind is None else {"$ref": _REF.format(name=kind.__name__)}}
            for media, kind in operation.body.kinds.items()
        }
        found["requestBody"] = {"required": True, "description": operation.body.description, "content": content}
    return found


def _parameter(one: Parameter) -> _Json:
    schema = one.kind.schema()
    if one.repeated:
        schema = {"type": "array", "items": schema}
    found: _Json = {
        "name": one.name,
        "in": "path" if one.in_path else "query",
        "description": one.description,
        "schema": schema,
    }
    if one.in_path:
        found["required"] = True
    if isinstance(one.kind, Fields):
        found["explode"] = False  # joined by commas
    elif isinstance(one.default, str | int):
        schema["default"] = one.default
    return found


def _answer(operation: Operation) -> _Json:
    media: _Json = {"application/json": {"schema": _answer_schema(operation)}}
    found: _Json = {"description": operation.summary, "content": media | _CSV if operation.csv else media}
    headers: _Json = {}
    if operation.method == "GET":
        headers["ETag"] = {
            "description": "Tag of this response, for `If-None-Match`.",
            "schema": {"type": "string"},
        }
    if operation.rows:
        link = 'The next page, with rel="next".'
        headers["Link"] = {"description": link, "schema": {"type": "string"}}
    return found | ({"headers": headers} if headers else {})


def _answer_schema(operation: Operation) -> _Json:
    if operation.answer == dict[str, Any]:
        return {"type": "object"}
    row = {"$ref": _REF.format(name=operation.answer.__name__)}
    if not operation.rows:
        return row
    properties: _Json = {
        operation.rows: {"type": "array", "items": row},
        "next": {"type": ["string", "null"], "description": "`after` of the following page; null on the last one."},
    }
    if operation.total:
        text = "Number of rows on all pages; null if not counted."
        properties["total"] = {"type": ["integer", "null"], "description": text}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _errors(operation: Operation) -> _Json:
    codes: dict[int, list[Code]] = {}
    for code in (*COMMON_ERRORS, *operation.errors):
        codes.setdefault(status_of(code), []).append(code)
    too_long = "The URL and headers exceed `server.max_header_size`."
    found = {"431": {"description": too_long, "content": {"text/plain": {"schema": {"type": "string"}}}}}
    problem = {"schema": {"$ref": _REF.format(name="Problem")}}
    for status, words in sorted(codes.items()):
        text = "`code` is one of " + ", ".join(f"`{code}`" for code in dict.fromkeys(words)) + "."
        found[str(status)] = {"description": text, "content": {MEDIA_TYPE: problem}}
    return found


def _schemas() -> Iterator[tuple[str, _Json]]:
    kinds: list[Any] = [Problem]
    for operation in OPERATIONS:
        if operation.answer != dict[str, Any]:
            kinds.append(operation.answer)
        if operation.body is not None:
            kinds += [kind for kind in operation.body.kinds.values() if kind is not None]
    _, components = msgspec.json.schema_components(dict.fromkeys(kinds), ref_template=_REF)
    partial = {
        operation.answer.__name__
        for operation in OPERATIONS
        if any(one.name == "fields" for one in operation.parameters)
    }
    partial |= set(_chosen_from(partial, components))
    structs = {kind.__name__: kind for kind in _structs(Row)}
    for name, schema in sorted(components.items()):
        if name in partial:  # `fields` leaves some out
            schema.pop("required", None)
        elif name in structs:  # those with a default are always present, too
            schema["required"] = list(schema["properties"])
        for one in schema.get("properties", {}).values():
            one.pop("default", None)
        yield name, schema


def _chosen_from(rows: Iterable[str], components: _Json) -> Iterator[str]:
    """Yield the names of objects in rows whose fields `fields` may select."""
    for row in rows:
        for schema in components[row]["properties"].values():
            for one in (schema, *schema.get("anyOf", ())):
                if reference := one.get("$ref"):
                    yield reference.rpartition("/")[2]


def _structs(kind: type[Any]) -> Iterator[type[Any]]:
    for one in kind.__subclasses__():
        yield one
        yield from _structs(one)
