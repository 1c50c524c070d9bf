"""Selectors: what they select and what they refuse."""

import pytest

from collector.simulator.errors import ApiError
from collector.simulator.selection import label_selector, required_fields

LABELS = {"app": "web", "tier": "front", "rack": "12", "nvidia.com/gpu.present": "true"}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ("app=web", True),
        ("app==web", True),
        ("app=db", False),
        ("app!=db", True),
        ("absent!=x", True),
        ("app", True),
        ("!app", False),
        ("absent", False),
        ("!absent", True),
        ("app in (db, web)", True),
        ("app notin (db,web)", False),
        ("absent notin (x)", True),
        ("absent in (x)", False),
        ("app=web,tier=front", True),
        ("app=web, tier in (back,middle)", False),
        ("nvidia.com/gpu.present=true", True),
        ("rack>11", True),
        ("rack<12", False),
        ("app>1", False),
        ("absent<5", False),
    ],
)
def test_a_label_selector_selects(selector: str, selected: bool) -> None:
    matches = label_selector(selector)
    assert matches is not None
    assert matches(LABELS) is selected


def test_an_empty_selector_selects_everything() -> None:
    assert label_selector("") is None


@pytest.mark.parametrize("selector", ["app=web)", "=x", "app in", "app in web", "a b"])
def test_an_invalid_selector_is_refused(selector: str) -> None:
    with pytest.raises(ApiError, match="unable to parse requirement"):
        label_selector(selector)


def test_field_selectors_are_read() -> None:
    fields = ("metadata.name", "spec.nodeName")
    assert required_fields("metadata.name=a,spec.nodeName!=b", fields) == [
        ("metadata.name", "a", True),
        ("spec.nodeName", "b", False),
    ]


def test_a_field_that_is_not_supported_is_named() -> None:
    with pytest.raises(ApiError, match=r"field label not supported: spec\.x"):
        required_fields("spec.x=1", ("metadata.name",))
