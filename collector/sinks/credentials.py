"""Secrets and certificates, read from where the settings point at the moment they are used."""

import os
import ssl
from pathlib import Path

from collector.sinks.errors import Reason, UnavailableError

__all__ = ["read_secret", "tls_context"]


def read_secret(sink: str, key: str, file: Path | None, variable: str | None) -> str | None:
    """Return the secret, or None where none is configured; raises Unavailable naming the key where it is missing.

    It is read anew each time, so that a rotated secret is used at once.
    """
    if file is not None:
        where = f"sinks.{sink}.{key}_file: {file}"
        try:
            secret = file.read_text(encoding="utf-8")
        except OSError as error:
            raise UnavailableError(f"{where}: {error.strerror}", Reason.MISCONFIGURED) from None
        except UnicodeDecodeError:
            raise UnavailableError(f"{where}: expected UTF-8 text", Reason.MISCONFIGURED) from None
    elif variable is not None:
        where = f"sinks.{sink}.{key}_env: {variable}"
        secret = os.environ.get(variable, "")
    else:
        return None
    if not (secret := secret.strip()):
        raise UnavailableError(f"{where}: expected a secret, found nothing", Reason.MISCONFIGURED)
    return secret


def tls_context(sink: str, ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    """Build a client's TLS context; raises Unavailable naming the key whose file is unusable."""
    where = "ca_file"
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        where = "cert_file"
        if cert is not None:
            # An encrypted key would otherwise be asked for on the terminal.
            context.load_cert_chain(cert, key, password=lambda: "")
    except (OSError, ValueError) as error:
        file = ca if where == "ca_file" else cert
        text = getattr(error, "strerror", None) or "unusable"
        raise UnavailableError(f"sinks.{sink}.{where}: {file}: {text}", Reason.MISCONFIGURED) from None
    return context
