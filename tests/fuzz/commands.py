"""What the commands read: files of ids and marks, keys, answers of a collector, and times that people write."""

import io

import click
import httpx
from hypothesis import strategies as st

from collector.cli import mark, where
from collector.cli.client import Client, _Page
from collector.cli.endpoint import url_endpoint
from collector.cli.errors import CommandError
from collector.cli.formats import age
from collector.cli.keys import keys_in
from collector.config import ConfigError, Duration
from collector.marks import MarkKind, NewMark, check_id, check_who, parse_until
from collector.sharding import pod_ordinal, shard_of
from collector.timestamps import MAX_TIME, as_of, parse_end, parse_time, rfc3339
from collector.views.terms import parse_terms
from collector.web.pages.links import ticket_name, ticket_url
from tests.fuzz.documents import any_text, damaged, json_documents, texts
from tests.fuzz.target import FOLDER, Target, Targets, bytes_target, check_message, refusing, text_target

__all__ = ["TARGETS"]

NOW = 1764000000.0


def _mark_file(content: bytes) -> None:
    file = FOLDER / "marks"
    file.write_bytes(content)
    assert all(check_id(name) == name for name in mark._names((), file))


def _where_file(content: bytes) -> None:
    parse_terms(where._read(io.BytesIO(content)))


def _mark(given: tuple[str, str, str, str]) -> None:
    """Each field of a mark is valid or refused in one line."""
    for make in (
        lambda: check_id(given[0]),
        lambda: check_who(given[1]),
        lambda: NewMark(kind=MarkKind.RMA, note=given[1], ticket=given[2], until=None),
        lambda: NewMark(kind=MarkKind.RMA, note="", ticket="", until=parse_until(given[3], NOW)).check_until(NOW),
    ):
        with refusing(ValueError):
            make()
    assert ticket_url(given[2]).isprintable()
    assert ticket_name(given[2]).isprintable()


def _time(text: str) -> None:
    """A time that is accepted is within the calendar, and its written form is read as the same time."""
    for read in (
        lambda: parse_time(text, NOW, future=True),
        lambda: parse_time(text, NOW, latest=True),
        lambda: parse_end(text, NOW),
    ):
        try:
            time = read()
        except ValueError as error:
            check_message(str(error))
            continue
        assert 0 <= time <= MAX_TIME
        assert abs(parse_time(rfc3339(time), NOW, future=True) - time) < 0.001
        assert time > NOW or parse_time(as_of(time), NOW, latest=True) >= time  # which is for past times
    age(text, NOW)


def _keys(text: bytes) -> None:
    """However a terminal's input is divided, it has the same keys; only part of a sequence is kept."""
    keys, rest = keys_in(text)
    assert len(rest) < 16
    middle = len(text) // 2
    first, kept = keys_in(text[:middle])
    second, last = keys_in(kept + text[middle:])
    assert (first + second, last) == (keys, rest)


_CLIENT = Client(url="http://127.0.0.1:1", timeout=Duration(1.0))


def _answer(given: tuple[int, bytes, dict[str, str]]) -> None:
    """Whatever responds at --url, the command says so in one line."""
    status, body, headers = given
    sent = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    _CLIENT._http = httpx.Client(
        base_url="http://127.0.0.1:1",
        transport=httpx.MockTransport(lambda _: httpx.Response(status, content=body, headers=sent)),
        event_hooks={"response": [_CLIENT._refuse_redirect]},
    )
    pages = _CLIENT._pages("/api/v1/gpus", {})
    for page, _ in zip(pages, range(3), strict=False):
        assert isinstance(page, _Page)
    _CLIENT.clusters() if b'"clusters"' in body and b'"next":null' in body else None


def _shard(text: str) -> None:
    assert 0 <= (shard := shard_of(text, 7)) < 7
    assert shard_of(text, 7) == shard
    assert pod_ordinal(text) >= 0


id_files = st.one_of(
    st.lists(texts | st.sampled_from(["GPU-1", "# note", "12345 # why", "a,b"]), max_size=5).map(
        lambda lines: "\n".join(lines).encode(errors="surrogatepass")
    ),
    st.sampled_from([b"serial,uuid\r\n1,GPU-2\r\n", "1\n".encode("utf-16"), b"\xef\xbb\xbf1\n", b"\xff\xfea"]),
).flatmap(damaged)
times = st.sampled_from(
    [
        *("2h", "1h30m", "3d ago", "-1w", "now", "today", "yesterday", "99999999999d", "1e3h", "2026-12-01T12:00:00Z"),
        *(
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59-23:59",
            "2026-W01-1",
            "2026-11-24",
            "2026-11-24 10:00 0200",
        ),
        *("1970-01-01T00:00:00.0000001", "20261124T101112,5Z", "2026-11-24T24:00", "1d 1d", "0.5d"),
    ]
)

TARGETS: Targets = {
    "mark-file": bytes_target(_mark_file, id_files, ConfigError, click.UsageError),
    "where-file": bytes_target(_where_file, id_files, click.UsageError, ValueError),
    "mark": Target(_mark, st.tuples(any_text, any_text, any_text | st.just("https://jira/A-1"), any_text | times)),
    "time": text_target(_time, times | any_text),
    "keys": bytes_target(
        _keys, st.lists(st.sampled_from([b"\x1b[A", b"\x1bO", b"\x1b[5~", b"q", b"\xc3"])).map(b"".join)
    ),
    "collector-answer": Target(
        _answer,
        st.tuples(
            st.integers(200, 599),
            json_documents("next", "clusters", "nodes", "gpus", "problems", "detail", "code", "cluster"),
            st.dictionaries(st.sampled_from(["Location", "Content-Type"]), texts, max_size=2),
        ),
        (CommandError,),
    ),
    "url": text_target(
        url_endpoint, any_text | st.sampled_from(["http://[", "https://h:0", "http://h:99999"]), ConfigError
    ),
    "shard": text_target(_shard, any_text | st.sampled_from(["gpuid-0", "gpuid-9.x", "a-" + "9" * 5000]), ValueError),
}
