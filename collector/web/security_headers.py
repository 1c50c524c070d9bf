"""The headers that every answer carries, also those that no handler made."""

__all__ = ["SECURITY_HEADERS"]

SECURITY_HEADERS = {
    "Server": "gpuid",  # aiohttp's own value names its version and Python's
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
