"""What a command suggests for an unknown name."""

import pytest

from collector.cli.suggestions import listed, unknown_name


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("prod-us", ["lab", "prod-eu"], 'no cluster "prod-us"; did you mean "prod-eu"?'),
        ("x", ["sim-10", "lab", "sim-2"], 'no cluster "x"; there are lab, sim-2, sim-10'),
        ("x", [], 'no cluster "x"; there are none'),
        ("a\nb", ["q"], 'no cluster "a b"; there are q'),
    ],
)
def test_the_nearest_name_or_all_are_named(name: str, known: list[str], text: str):
    assert unknown_name("cluster", name, known) == text


def test_a_long_list_is_cut():
    assert listed([f"c{n}" for n in range(12)]) == "c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more"
