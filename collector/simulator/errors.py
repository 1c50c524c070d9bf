"""The errors of a Kubernetes API server, as exceptions with their Status."""

from typing import Any

import msgspec

from collector.model import GpuidError

__all__ = [
    "ApiError",
    "already_exists",
    "bad_request",
    "conflict",
    "expired",
    "forbidden",
    "internal",
    "invalid",
    "method_not_allowed",
    "not_found",
    "too_large_version",
    "too_many_requests",
    "unauthorized",
    "unknown_path",
    "unsupported_media_type",
]


class ApiError(GpuidError):
    """The response of an API server to a request that it rejects."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.headers = headers or {}
        self.status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata or {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({"details": details} if details else {}),
            "code": code,
        }

    @property
    def body(self) -> bytes:
        """The Status as JSON."""
        return msgspec.json.encode(self.status)


def bad_request(message: str) -> ApiError:
    """Return a 400: the request is malformed."""
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    """Return a 401: the credentials are missing or wrong."""
    return ApiError(401, "Unauthorized", "Unauthorized", headers={"WWW-Authenticate": 'Bearer realm="kubernetes"'})


def forbidden(user: str, verb: str, resource: str, group: str, namespace: str, name: str) -> ApiError:
    """Return a 403: the user lacks the right."""
    scope = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    qualified = f"{resource.partition('/')[0]}.{group}" if group else resource.partition("/")[0]
    subject = f'{qualified} "{name}"' if name else qualified
    message = (
        f'{subject} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}" {scope}'
    )
    details = {key: value for key, value in {"name": name, "group": group, "kind": resource}.items() if value}
    return ApiError(403, "Forbidden", message, details=details)


def not_found(resource: str, name: str, group: str = "") -> ApiError:
    """Return a 404: the object does not exist."""
    qualified = f"{resource}.{group}" if group else resource
    details = {key: value for key, value in {"name": name, "group": group, "kind": resource}.items() if value}
    return ApiError(404, "NotFound", f'{qualified} "{name}" not found', details=details)


def unknown_path() -> ApiError:
    """Return a 404: the resource does not exist."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def method_not_allowed() -> ApiError:
    """Return a 405: the resource does not support the verb."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def already_exists(resource: str, name: str, group: str) -> ApiError:
    """Return a 409: an object with this name exists."""
    details = {"name": name, "group": group, "kind": resource}
    return ApiError(409, "AlreadyExists", f'{resource}.{group} "{name}" already exists', details=details)


def conflict(resource: str, name: str, group: str) -> ApiError:
    """Return a 409: the change was made to an old resource version."""
    qualified = f"{resource}.{group}" if group else resource
    details = {key: value for key, value in {"name": name, "group": group, "kind": resource}.items() if value}
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {qualified} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again",
        details=details,
    )


def expired(message: str, **metadata: str) -> ApiError:
    """Return a 410: the resource version or continue token has been compacted."""
    return ApiError(410, "Expired", message, metadata=metadata)


def unsupported_media_type(media_type: str, accepted: str) -> ApiError:
    """Return a 415: the format of the body is not supported."""
    message = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    return ApiError(415, "UnsupportedMediaType", f"{message} (got {media_type})")


def invalid(subject: str, field: str, message: str) -> ApiError:
    """Return a 422: the value of a field is not allowed."""
    causes = [{"reason": "FieldValueForbidden", "message": message, "field": field}]
    return ApiError(422, "Invalid", f"{subject} is invalid: {field}: {message}", details={"causes": causes})


def too_many_requests(retry_after: int) -> ApiError:
    """Return a 429: the client must slow down."""
    return ApiError(
        429,
        "TooManyRequests",
        "Too many requests, please try again later.",
        details={"retryAfterSeconds": retry_after},
        headers={"Retry-After": str(retry_after)},
    )


def internal(message: str) -> ApiError:
    """Return a 500: the server itself failed."""
    text = f"Internal error occurred: {message}"
    return ApiError(500, "InternalError", text, details={"causes": [{"message": message}]})


def too_large_version(wanted: int, current: int) -> ApiError:
    """Return a 504: the resource version is in the future."""
    return ApiError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {wanted}, current: {current}",
        details={
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )
