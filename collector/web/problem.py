"""API errors as in RFC 9457, each with a stable code for programs."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus

import msgspec
from aiohttp import web

from collector.text import one_line, printable_json

__all__ = [
    "IN_API",
    "MEDIA_TYPE",
    "Code",
    "InvalidParameterError",
    "NoStoreError",
    "Problem",
    "UnknownParameterError",
    "coded",
    "problem_response",
    "status_of",
]

MEDIA_TYPE = "application/problem+json"
IN_API = web.RequestKey("in_api", bool)  # whether a request's errors are returned as such problems
MAX_NAME_LENGTH = 60  # characters of an unknown parameter that are quoted


class Code(StrEnum):
    """Error codes: a closed set of stable words."""

    UNKNOWN_PARAMETER = "unknown_parameter"
    INVALID_PARAMETER = "invalid_parameter"
    INVALID_REQUEST = "invalid_request"
    INVALID_BODY = "invalid_body"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    UNKNOWN_PATH = "unknown_path"
    NO_STORE = "no_store"
    NOT_RECORDED = "not_recorded"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TIMEOUT = "body_timeout"
    CONFLICT = "conflict"
    AMBIGUOUS = "ambiguous"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    TOO_MANY_REQUESTS = "too_many_requests"
    UNAVAILABLE = "unavailable"
    INTERNAL_ERROR = "internal_error"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: Code
    parameter: str = ""  # that it is about


class InvalidParameterError(web.HTTPBadRequest):
    """The value of a parameter is not what was expected."""

    def __init__(self, name: str, expected: str) -> None:
        super().__init__(text=f"{name}: {expected}")
        self.parameter = name


class NoStoreError(web.HTTPNotFound):
    """The request needs a store, and none is configured."""

    def __init__(self, what: str) -> None:
        super().__init__(text=f"this collector keeps no {what}: its configuration has no [store]")


class UnknownParameterError(web.HTTPBadRequest):
    """An unknown parameter."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        expected = f"expected one of {', '.join(known)}" if known else "expected none"
        if name == "offset" and "after" in known:
            expected = "use `after` with the `next` of the previous page"
        super().__init__(text=f'unknown parameter "{one_line(name, MAX_NAME_LENGTH)}"; {expected}')
        self.parameter = name


_BY_STATUS: Mapping[int, Code] = {
    400: Code.INVALID_REQUEST,
    401: Code.UNAUTHORIZED,
    403: Code.FORBIDDEN,
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    408: Code.BODY_TIMEOUT,
    409: Code.CONFLICT,
    413: Code.BODY_TOO_LARGE,
    415: Code.UNSUPPORTED_MEDIA_TYPE,
    429: Code.TOO_MANY_REQUESTS,
    503: Code.UNAVAILABLE,
}
_CODES: dict[type[web.HTTPException], Code] = {
    InvalidParameterError: Code.INVALID_PARAMETER,
    UnknownParameterError: Code.UNKNOWN_PARAMETER,
    NoStoreError: Code.NO_STORE,
}
_CODE = "gpuid_code"


_STATUS: Mapping[Code, int] = {
    **{code: status for status, code in _BY_STATUS.items()},
    Code.UNKNOWN_PARAMETER: 400,
    Code.INVALID_PARAMETER: 400,
    Code.INVALID_BODY: 400,
    Code.UNKNOWN_PATH: 404,
    Code.NO_STORE: 404,
    Code.NOT_RECORDED: 404,
    Code.AMBIGUOUS: 409,
    Code.INTERNAL_ERROR: 500,
}


def status_of(code: Code) -> int:
    """Return the HTTP status of a code."""
    return _STATUS[code]


def coded(error: web.HTTPException, code: Code) -> web.HTTPException:
    """Return an error with a specific code instead of that of its status."""
    setattr(error, _CODE, code)
    return error


def problem_response(error: web.HTTPException, headers: dict[str, str]) -> web.Response:
    """Return an error as application/problem+json."""
    status = HTTPStatus(error.status)
    code = getattr(error, _CODE, None) or _CODES.get(type(error)) or _BY_STATUS.get(status, Code.INTERNAL_ERROR)
    if code is Code.NOT_FOUND and error.text == f"{status.value}: {status.phrase}":  # the router's own
        code, detail = Code.UNKNOWN_PATH, "there is no such path in this API; /api/v1/openapi.json lists them"
    else:
        detail = one_line(error.text or error.reason).removeprefix(f"{status.value}: ")
    problem = Problem(
        type="about:blank",
        title=status.phrase,
        status=status.value,
        detail=detail,
        code=code,
        parameter=one_line(getattr(error, "parameter", ""), MAX_NAME_LENGTH),
    )
    body = printable_json(msgspec.json.encode(problem))
    return web.Response(body=body, status=error.status, headers=headers, content_type=MEDIA_TYPE)
