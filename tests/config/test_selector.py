"""Label selectors, as Kubernetes reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.config import Requirement, parse_selector


def requirement(key: str, operator: str = "", *values: str) -> Requirement:
    return Requirement(key, operator, frozenset(values))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t", []),
        ("a", [requirement("a")]),
        ("! a", [requirement("a", "!")]),
        ("a=b", [requirement("a", "=", "b")]),
        (" a == b ,c", [requirement("a", "==", "b"), requirement("c")]),
        ("a!=b", [requirement("a", "!=", "b")]),
        ("a=,b!=", [requirement("a", "=", ""), requirement("b", "!=", "")]),
        ("a in(b)", [requirement("a", "in", "b")]),
        ("a notin ( b , c )", [requirement("a", "notin", "b", "c")]),
        (
            "x in (foo,,baz),y,z notin ()",
            [requirement("x", "in", "foo", "", "baz"), requirement("y"), requirement("z", "notin", "")],
        ),
        ("in in (in,notin),notin", [requirement("in", "in", "in", "notin"), requirement("notin")]),
        ("a>5,b < 0", [requirement("a", ">", "5"), requirement("b", "<", "0")]),
        ("nvidia.com/gpu.present=true", [requirement("nvidia.com/gpu.present", "=", "true")]),
    ],
)
def test_equality_sets_existence_and_order_are_read(text: str, expected: list[Requirement]) -> None:
    assert parse_selector(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("a,", ",", ",a", "a b", "a in", "a in b", "a in (b", "a in b)", "=x", "a=b)", "a=b=c", "a=!b", "!a=b", "!"),
        *("!a in (b)", "a in (b c)", "a>x", "a>-1", "a>", f"a>{1 << 63}", "/x", "Example.com/x", "a/b/c", "-a", "a-"),
        *("a=-b", "a=" + "b" * 64, "b" * 64, "b" * 254 + "/x", "a&b", "ä=b", "a=ä", "a;b", "x./y", "a=b,,c"),
    ],
)
def test_selectors_the_server_would_refuse_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r'^expected a label selector such as "app=gpu-plugin" or '):
        parse_selector(text)


def test_the_error_quotes_the_invalid_part() -> None:
    with pytest.raises(ValueError, match=r' and not "tier in x" in it$'):
        parse_selector("app=web, tier in x")


names = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
requirements = st.one_of(
    st.builds(Requirement, names, st.sampled_from(["", "!"]), st.just(frozenset())),
    st.builds(Requirement, names, st.sampled_from(["=", "==", "!="]), st.frozensets(names, min_size=1, max_size=1)),
    st.builds(Requirement, names, st.sampled_from(["in", "notin"]), st.frozensets(names, min_size=1, max_size=4)),
)


def write(one: Requirement) -> str:
    if one.operator in ("in", "notin"):
        return f"{one.key} {one.operator} ({', '.join(one.values)})"
    return f"!{one.key}" if one.operator == "!" else f"{one.key}{one.operator}{''.join(one.values)}"


@given(st.lists(requirements, max_size=5))
def test_selectors_round_trip(selector: list[Requirement]) -> None:
    assert parse_selector(", ".join(map(write, selector))) == selector


@given(st.text())
def test_any_text_is_a_selector_or_refused_in_one_line(text: str) -> None:
    try:
        parse_selector(text)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
