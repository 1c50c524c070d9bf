"""YAML that kubectl reads as intended."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from collector.grant.documents import dump
from collector.kube.go_values import load_yaml


@pytest.mark.parametrize(
    "text",
    ["1e3", "y", "no", "0o14", "0x1F", "1_000", "12:30:45", "2026-01-01", "~", "", "=", "<<", "\n\x85", "a\n\u2028b"],
)
def test_a_string_stays_a_string(text: str) -> None:
    written = dump([{"args": [text], text: text}]).encode()
    assert load_yaml(written) == {"args": [text], text: text}


def test_repeated_lists_are_written_in_full() -> None:
    shared = ["a"]
    assert "&" not in dump([{"x": shared, "y": shared}])


@given(
    st.recursive(
        st.text() | st.booleans() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_every_document_round_trips(value: object) -> None:
    assert yaml.safe_load(dump([{"value": value}])) == {"value": value}
