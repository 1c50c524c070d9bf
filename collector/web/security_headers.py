"""The headers that every answer carries, also those that no handler made."""

__all__ = ["CAMERA_POLICY", "SECURITY_HEADERS"]

SECURITY_HEADERS = {
    "Server": "gpuid",  # aiohttp's own value names its version and Python's
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# Of the one page that reads labels, where a person starts the camera.
CAMERA_POLICY = "camera=(self), microphone=(), geolocation=()"
