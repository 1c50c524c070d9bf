"""The names in the list of slow tests are those of tests that exist."""

import re
from pathlib import Path

import pytest

from tests.support.marks import BULK, MEASURED, NOT_BULK, NOT_MEASURED

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", [*MEASURED, *BULK, *NOT_BULK, *NOT_MEASURED])
def test_everything_named_exists(name: str) -> None:
    path, *parts = name.split("::")
    assert (ROOT / path).exists()
    for part in parts:
        assert re.search(rf"\b(class|def) {part}\b|^{part} =", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
