"""The format of lists and watch events, and how a stream becomes lines."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.kube.wire import LineSplitter, MalformedError, decode_event, decode_page, decode_status, decode_version


def test_a_reason_is_short_wherever_in_the_document_the_value_is():
    with pytest.raises(MalformedError) as caught:
        decode_event(b"[" * 900 + b"1e999" + b"]" * 900)
    assert "out of range" in str(caught.value)
    assert len(str(caught.value)) <= 200


class TestAList:
    def test_is_split_into_pages(self) -> None:
        body = b'{"metadata": {"resourceVersion": "5", "continue": "tok"}, "items": [{"a": 1}, {}]}'
        page = decode_page(body)
        assert (page.version, page.next, [bytes(item) for item in page.items]) == ("5", "tok", [b'{"a": 1}', b"{}"])

    @pytest.mark.parametrize("items", [b'"items": []', b'"items": null', b'"kind": "PodList"'])
    def test_may_be_empty_in_several_forms(self, items: bytes) -> None:
        page = decode_page(b'{"metadata": {"resourceVersion": "5"}, ' + items + b"}")
        assert (page.version, page.next, list(page.items)) == ("5", "", [])

    def test_may_lack_a_version_while_it_has_items(self) -> None:
        page = decode_page(b'{"kind": null, "metadata": null, "items": [{}]}')
        assert (page.version, page.next, [bytes(item) for item in page.items]) == ("", "", [b"{}"])

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (b"null", "a list without metadata.resourceVersion and without items"),
            (b"{}", "a list without metadata.resourceVersion and without items"),
            (
                b'{"kind": null, "metadata": null, "items": null}',
                "a list without metadata.resourceVersion and without items",
            ),
            (b"[]", "expected a mapping, got a list"),
            (b'{"metadata": []}', "metadata: expected a mapping, got a list"),
            (b'{"metadata": {"resourceVersion": 5}}', "metadata.resourceVersion: expected text, got a number"),
            (b'{"metadata": {"resourceVersion": "5"}, "items": {}}', "items: expected a list, got a mapping"),
            (b'{"metadata": {"resourceVersion": "\xff"}}', "not UTF-8"),
            (b'{"metadata": ' + b"[" * 100_000, "metadata: expected a mapping, got a list"),
            (b'{"other": ' + b"[" * 100_000, "nested too deep"),
            (b"", "JSON that is empty or cut off"),
            (b'{"metadata": {', "JSON that is empty or cut off"),
            (b"<html>", "JSON is malformed: invalid character (byte 0)"),
        ],
    )
    def test_of_another_form_is_malformed_in_our_words(self, body: bytes, words: str) -> None:
        with pytest.raises(MalformedError) as caught:
            decode_page(body)
        assert str(caught.value) == words


class TestAWatchEvent:
    def test_of_an_object_is_decoded_in_two_steps(self) -> None:
        event = decode_event(b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"9"}}}')
        assert (event.type, decode_version(event.object)) == ("ADDED", "9")

    def test_that_is_a_bookmark_has_a_version_only(self) -> None:
        event = decode_event(
            b'{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"12","creationTimestamp":null}}}'
        )
        assert decode_version(event.object) == "12"

    def test_that_is_an_error_has_a_status(self) -> None:
        event = decode_event(
            b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}'
        )
        status = decode_status(event.object)
        assert (status.code, status.reason, status.message) == (410, "Expired", "too old")

    def test_may_have_a_status_with_nulls(self) -> None:
        assert decode_status(msgspec.Raw(b'{"code": 410, "reason": null, "message": null}')).code == 410

    @pytest.mark.parametrize(
        "line",
        [
            b"",
            b"null",
            b"{}",
            b'{"type":null,"object":{}}',
            b'{"type":"ADDED"}',
            b'{"type":"ADDED","object":{',
            b"\xff",
        ],
    )
    def test_of_another_form_is_malformed(self, line: bytes) -> None:
        with pytest.raises(MalformedError):
            decode_event(line)


class TestTheLineSplitter:
    @pytest.mark.parametrize(
        ("chunks", "lines"),
        [
            ([b"a\nb\n"], [b"a", b"b"]),
            ([b"a", b"b\nc", b"\n"], [b"ab", b"c"]),
            ([b"a\n", b"\n", b"\n\nb\n"], [b"a", b"b"]),
            ([b"", b"a", b"", b"\n"], [b"a"]),
            ([b"incomplete"], []),
        ],
    )
    def test_joins_lines_split_across_chunks(self, chunks: list[bytes], lines: list[bytes]) -> None:
        splitter = LineSplitter()
        assert [line for chunk in chunks for line in splitter.feed(chunk)] == lines

    @given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=20))
    def test_returns_the_same_lines_for_any_chunking(self, stream: bytes, cuts: list[int]) -> None:
        splitter = LineSplitter()
        edges = [0, *sorted(cuts), len(stream)]
        chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
        lines = [line for chunk in chunks for line in splitter.feed(chunk)]
        assert lines == [line for line in stream.split(b"\n")[:-1] if line]

    def test_refuses_a_line_past_its_limit(self) -> None:
        splitter = LineSplitter(limit=10)
        assert splitter.feed(b"0123456789") == []
        with pytest.raises(MalformedError):
            splitter.feed(b"0")

    def test_applies_the_limit_to_each_line(self) -> None:
        splitter = LineSplitter(limit=10)
        assert [line for _ in range(50) for line in splitter.feed(b"0123\n567")] == [b"0123"] + [b"5670123"] * 49

    def test_handles_a_huge_line_in_linear_time(self) -> None:
        splitter = LineSplitter()
        for _ in range(20_000):
            splitter.feed(b"x" * 1024)
        assert [len(line) for line in splitter.feed(b"\n")] == [20_000 * 1024]
