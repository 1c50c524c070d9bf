"""Text from elsewhere on one line of an error, a log or a terminal."""

import itertools
import shutil
import subprocess

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.text import (
    csv_text,
    describe_redirect,
    enumerated,
    escaped,
    natural_key,
    one_line,
    printable,
    printable_json,
    shell_word,
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("just so", "just so"),
        (" a\n\tb\r\nc ", "a b c"),
        ("a\x1b[31mred\x07", "a[31mred"),
        ("a \x00 b", "a b"),
        ("line\u2028break \u202eturned", "line break turned"),
        (None, ""),
        (7, "7"),
        ("a  b", "a b"),
        ("a\u00a0b", "a b"),
    ],
)
def test_whitespace_is_folded_and_unprintable_characters_are_dropped(value: object, shown: str) -> None:
    assert one_line(value) == shown


@given(st.text(st.sampled_from("aé  \t\n\u00a0\u202e\x1b界")))
def test_one_line_is_printable_text_with_single_spaces(text: str) -> None:
    prints = "".join(letter for letter in text if letter.isprintable() or letter.isspace())
    assert one_line(text) == " ".join(prints.split())


def test_text_longer_than_the_limit_is_cut() -> None:
    assert one_line("just so", 7) == "just so"
    assert one_line("just so!", 7) == "just s…"


@given(st.text(), st.integers(min_value=1, max_value=50))
def test_any_text_becomes_one_printable_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert line.isprintable()
    assert len(line) <= limit
    assert one_line(line, limit) == line


ANYTHING = st.text(st.characters(exclude_categories=[]), max_size=30)  # halves of surrogate pairs, too


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("just so,  with blanks ", "just so,  with blanks "),
        ("a\x1b[31m\r\n\t\x7f\x9b", "a\\x1b[31m\\r\\n\\t\\x7f\\x9b"),
        ("\u2028\u202e\u200b\ufeff\xa0\U000e0001\ud800", "\\u2028\\u202e\\u200b\\ufeff\\xa0\\U000e0001\\ud800"),
        ("é😀", "é😀"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("NVIDIA  H100 ", "NVIDIA  H100 "),
        ("a\x1b\tb\x9b", "a b"),
        ("\x7f", ""),
        ("=1+1", "'=1+1"),
        (" =1+1", "' =1+1"),
        ("\t-1", "'-1"),
        ("\r\n@x", "'@x"),
        ("\u200b+1", "'+1"),
        ("\uff1d1", "'\uff1d1"),
        ("a=1", "a=1"),
        ("", ""),
        ("'=1", "'=1"),
    ],
)
def test_a_csv_cell_is_printable_and_never_a_formula(text: str, shown: str) -> None:
    assert csv_text(text) == shown


@given(ANYTHING)
def test_any_text_becomes_a_cell_and_a_line(text: str) -> None:
    assert csv_text(text).isprintable()
    assert not csv_text(text).lstrip().startswith(("=", "+", "-", "@"))
    assert escaped(text).isprintable()
    assert printable(text).isprintable()


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_with_escapes_means_the_same(value: object) -> None:
    for body in (msgspec.json.encode(value), msgspec.json.format(msgspec.json.encode(value))):
        shown = printable_json(body)
        assert shown.decode().replace("\n", "").isprintable()
        assert msgspec.json.decode(shown) == value


def test_printable_json_is_returned_as_it_is() -> None:
    for body in ('["Zürich", "節点"]\n'.encode(), b'["a"]'):
        assert printable_json(body) is body


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://u:p@login.example:8443/path?token=x", " to login.example:8443"),
        ("//login.example/x", " to login.example"),
        ("/login", ""),
        ("", ""),
        (None, ""),
        ("http://[::1", ""),
        ("http://\x1b[31m/", ""),
        ("http://a\x9bb/", " to ab"),
        (f"http://{'x' * 300}/", f" to {'x' * 99}…"),
    ],
)
def test_a_redirect_names_only_the_host(location: str | None, target: str) -> None:
    assert describe_redirect(302, location, "url") == f"redirects (302){target}; set url to the final address"


@pytest.mark.parametrize("text", ["prod", "a b", "a'b", "a\nb'\\c\x1b[31m", "\u202e\x85\U000e0001", ""])
def test_a_shell_reads_a_quoted_word_unchanged(text):
    word = shell_word(text)
    assert word.isprintable()
    bash = shutil.which("bash")
    assert bash is not None
    environment = {"LC_ALL": "C.UTF-8"}
    done = subprocess.run([bash, "-c", f"printf %s {word}"], capture_output=True, check=True, env=environment)
    assert done.stdout.decode() == text


@pytest.mark.parametrize(("names", "text"), [((), ""), (("a", "b"), "a, b"), (("a", "b", "c"), "a, b, …")])
def test_lists_of_names_are_short(names: tuple[str, ...], text: str) -> None:
    assert enumerated(names, 2) == text


def test_names_are_in_natural_order() -> None:
    names = ["sim-10", "sim-2", "sim-02b", "b", "sim", "10", "9", ""]
    assert sorted(names, key=natural_key) == ["", "9", "10", "b", "sim", "sim-2", "sim-02b", "sim-10"]


@given(st.lists(st.text(max_size=20), max_size=20))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    keys = sorted(map(natural_key, names))
    assert all(before <= after for before, after in itertools.pairwise(keys))
