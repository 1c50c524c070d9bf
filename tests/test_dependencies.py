"""What `collector` imports is declared, and a contract of import-linter says which rooms may import it."""

import ast
import itertools
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = {"pyyaml": "yaml"}  # of packages that are called otherwise
OF_AIOBOTO3 = {"aiobotocore", "botocore"}  # which it pins to the one version that it works with


def imported() -> set[str]:
    """Return the third-party packages that `collector` imports, by their top-level module."""
    names: set[str] = set()
    for path in (ROOT / "collector").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"collector"}


def test_every_import_is_a_declared_dependency() -> None:
    project = PYPROJECT["project"]
    requirements = project["dependencies"] + project["optional-dependencies"]["parquet"]
    names = {Requirement(text).name for text in requirements}
    declared = {MODULES.get(name, name.replace("-", "_")) for name in names}
    assert imported() - declared == OF_AIOBOTO3


def test_every_third_party_import_has_a_contract() -> None:
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"][1:]
    listed = [contract.get("protected_modules", contract.get("forbidden_modules")) for contract in contracts]
    names = set(itertools.chain.from_iterable(listed))
    assert {name for name in names if not name.startswith("collector.")} == imported()
