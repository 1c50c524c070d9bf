"""The headers of every response, including those not made by a handler."""

__all__ = ["CAMERA_POLICY", "SECURITY_HEADERS"]

SECURITY_HEADERS = {
    "Server": "gpuid",  # aiohttp's default reveals its and Python's versions
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# For the page that reads labels, where the user starts the camera.
CAMERA_POLICY = "camera=(self), microphone=(), geolocation=()"
