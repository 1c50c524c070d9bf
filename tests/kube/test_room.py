"""What the room is: one API server, no GPU in it."""

import re
from pathlib import Path

import pytest

import collector.kube

MODULES = sorted(Path(next(iter(collector.kube.__path__))).glob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_module_mentions_gpus(module: Path) -> None:
    text = module.read_text(encoding="utf-8").lower()
    assert re.findall(r"nvidia|gpus?(?!id)", text) == []
