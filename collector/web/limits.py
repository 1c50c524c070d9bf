"""Limits on time and connections of the HTTP server; only tests use other values."""

import msgspec

__all__ = ["DEFAULT_LIMITS", "HttpLimits"]


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one server; times are in seconds."""

    shutdown_timeout: float = 5.0  # for responses in progress when the server stops
    certificate_check_interval: float = 10.0  # between two checks of the certificate files
    sweep_interval: float = 1.0  # between two checks for connections that are too slow
    max_streams: int = 100  # of changes, at the same time
    stream_heartbeat: float = 10.0  # after which a stream sends a message even without changes
    max_stream_time: float = 600.0  # after which a browser must connect again, and authenticate again


DEFAULT_LIMITS = HttpLimits()
