"""Inputs for decoders: documents with the keys that they know, and hostile content."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

__all__ = ["HOSTILE_JSON", "any_text", "damaged", "http_dates", "json_documents", "texts"]

DEEP, LARGE, BROKEN = "@deep@", "@large@", "@broken@"  # put into a document, and replaced in its bytes
MARKS = {
    DEEP: (b"[" * 100_000, b'{"a":' * 50_000, b"[" * 600 + b"]" * 600, b'{"a":' * 3000 + b"1" + b"}" * 3000),
    LARGE: (b"9" * 5000, b"-" + b"9" * 400, b"1e400", b"-1e-400", b"18446744073709551616", b"0.1" + b"0" * 5000),
    BROKEN: (b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\\ud800"', b'"\\ud800\\u0041"', b'"\x00"', b'"\x1b[31m"', b"NaN"),
}

HOSTILE_JSON = {  # what each decoder meets in every run, with any of its keys in the place of KEY
    "not UTF-8": b'{"KEY": "\xff"}',
    "Latin-1": '{"KEY": "é"}'.encode("latin-1"),
    "a key that is not UTF-8": b'{"\xff": 1, "KEY": "\xff"}',
    "half of a surrogate pair": b'{"KEY": "\\ud800"}',
    "half of a surrogate pair in UTF-8": b'{"KEY": "\xed\xa0\x80"}',
    "deep": b'{"KEY": ' + b"[" * 100_000,
    "deep and complete": b'{"KEY": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep objects": b'{"KEY":' * 50_000,
    "deep in what is not read": b'{"x": ' + b'{"x": ' * 5000 + b"1" + b"}" * 5001,
    "a large number": b'{"KEY": ' + b"9" * 5000 + b"}",
    "a number that is none": b'{"KEY": NaN}',
    "a number out of range": b'{"KEY": 1e999}',
    "null": b'{"KEY": null}',
    "nothing": b"",
    "no object": b"[[[]]]",
    "a null byte": b"\x00",
}

any_text = st.text(st.characters(exclude_categories=[]))  # halves of surrogate pairs, too
texts = st.text(max_size=12) | st.sampled_from(["", " ", "0", "-1", "a\nb", "\x1b[2J", "\u202e", "\ufeff", "é", "😀"])


def json_documents(*keys: str, values: Sequence[Any] = ()) -> st.SearchStrategy[bytes]:
    """Return JSON, and what is almost JSON, whose objects have these keys and which holds these values."""
    names = st.sampled_from(keys) | texts if keys else texts
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from([*MARKS, *values, ""])
    trees = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6),
        max_leaves=20,
    )
    return st.builds(_encode, st.dictionaries(names, trees, max_size=6) | trees, st.data()).flatmap(damaged)


def _encode(tree: object, data: st.DataObject) -> bytes:
    body = json.dumps(tree, ensure_ascii=data.draw(st.booleans())).encode(errors="surrogatepass")
    for mark, replacements in MARKS.items():
        if (quoted := json.dumps(mark).encode()) in body:
            body = body.replace(quoted, data.draw(st.sampled_from(replacements)))
    return body


def damaged(body: bytes) -> st.SearchStrategy[bytes]:
    """Return the bytes as they are, or cut, with other bytes inside, or in another encoding."""
    return st.one_of(
        st.just(body),
        st.just(body),
        st.integers(0, len(body)).map(lambda end: body[:end]),
        st.tuples(st.integers(0, len(body)), st.binary(max_size=4)).map(
            lambda change: body[: change[0]] + change[1] + body[change[0] + len(change[1]) :]
        ),
        st.sampled_from(["utf-16", "utf-32", "latin-1", "utf-8-sig"]).map(
            lambda name: body.decode(errors="replace").encode(name, "replace")
        ),
        st.binary(max_size=60),
    )


http_dates = st.sampled_from(
    [
        "Thu, 01 Jan 2099 00:00:00 GMT",
        "Thu, 01 Jan 0001 00:00:00 +2359",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Wed, 3 Apr 2002 12.34.56.78+0800",
        "1 2 3 4 5 6",
        ", , ,",
    ]
).flatmap(lambda text: st.just(text) | damaged(text.encode()).map(lambda body: body.decode("latin-1")))
