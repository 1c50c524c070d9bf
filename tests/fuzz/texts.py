"""Functions that any foreign text goes through."""

from typing import TypeVar

import msgspec
from hypothesis import strategies as st

from collector.config.selector import is_label_key
from collector.model import Gpu, canonical_uuid
from collector.redaction import Secrets, redact
from collector.text import csv_text, describe_redirect, escaped, one_line, printable, printable_json
from collector.web.metrics import accepts_gzip, accepts_openmetrics
from tests.fuzz.configuration import urls
from tests.fuzz.documents import any_text
from tests.fuzz.target import Target, Targets, text_target

__all__ = ["TARGETS"]

T = TypeVar("T")

KNOWN = "S3cr3tS3cr3t0123"


def _texts(text: str) -> None:
    assert one_line(text, 40).isprintable()
    assert printable(text).isprintable()
    assert escaped(text).isprintable()
    assert csv_text(text).isprintable()
    assert describe_redirect(302, text, "url").isprintable()
    assert printable_json(msgspec.json.encode(text.encode(errors="replace").decode())).decode().isprintable()
    canonical_uuid(text)
    accepts_gzip(text)
    accepts_openmetrics(text)
    is_label_key(text)
    Gpu(uuid=text)


def _redaction(given: tuple[str, str]) -> None:
    """No secret that is known is shown, whatever is around it and whatever else is secret."""
    text, secret = given
    secrets = Secrets(secret)
    secrets.add_url(text)
    secrets.add_proxies({"HTTP_PROXY": text})
    secrets.add(KNOWN)
    for shown in (secrets.mask(text), secrets.redact(text, 60), redact(text, 60)):
        assert shown.isprintable()
    for echo in (f"{text[:500]} {KNOWN} {text[:500]}", f"{text[:500]}{KNOWN}{text[:500]}"):
        for shown in (secrets.mask(echo), secrets.redact(echo)):
            assert KNOWN not in shown


TARGETS: Targets = {
    "text": text_target(_texts, any_text | urls),
    "redaction": Target(_redaction, st.tuples(any_text | urls, any_text)),
}
