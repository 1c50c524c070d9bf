"""What README, CONTRIBUTING and docs/architecture.md say of metrics, rooms and code is so."""

import ast
import functools
import re
import tomllib
from pathlib import Path

from collector.exposition.families import FAMILIES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_the_metrics_table_is_the_table_of_the_code() -> None:
    rows = [f"| `{family.name}` | {family.kind} | {', '.join(family.labels)} | {family.help} |" for family in FAMILIES]
    table = "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])
    assert table in README, f"the table in README.md should be:\n{table}"


def layers() -> list[str]:
    """Return the rooms, from top to bottom, as the contract of import-linter has them."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    return re.findall(r"collector\.(\w+)", " ".join(linter["contracts"][0]["layers"]))


def test_contributing_lists_the_rooms_in_the_order_that_is_checked() -> None:
    table = CONTRIBUTING.partition("\n## Layers\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == layers()


def test_the_architecture_has_the_rooms_in_the_checked_order() -> None:
    rooms = ARCHITECTURE.partition("\n## The rooms\n")[2].partition("\n## ")[0]
    entries = re.findall(r"^- (\*\*`\w+`\*\*(?:, \*\*`\w+`\*\*)*): .+", rooms, re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(entries)) == layers()


def test_readme_and_contributing_link_to_the_architecture() -> None:
    assert "(docs/architecture.md)" in README
    assert "(docs/architecture.md)" in CONTRIBUTING


@functools.cache
def defined(path: Path) -> set[str]:
    """Return what a module defines, and `Class.member` for what its classes do."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    members = {
        f"{statement.name}.{name}"
        for statement in module.body
        if isinstance(statement, ast.ClassDef)
        for name in bound(statement.body)
    }
    return bound(module.body) | members


def bound(statements: list[ast.stmt]) -> set[str]:
    names: set[str] = set()
    for statement in statements:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names


def absent_from_code(text: str) -> list[str]:
    """Return what a document names between backticks, and the code does not have.

    Understood are `path`, `path.py:name` and `Class.member`; a path is below collector/, or else below the root.
    """
    everywhere = set().union(*(defined(path) for path in (ROOT / "collector").rglob("*.py")))
    absent = []
    for code in re.findall(r"`([^`\n]+)`", text):
        if named := re.fullmatch(r"([\w/.-]+\.(?:py|md|toml)|[\w/.-]+/)(?::([\w.]+))?", code):
            path = next(
                (folder / named[1] for folder in (ROOT / "collector", ROOT) if (folder / named[1]).exists()), None
            )
            if path is None or (named[2] is not None and named[2] not in defined(path)):
                absent.append(code)
        elif re.fullmatch(r"[A-Z]\w+\.\w+", code) and code not in everywhere:
            absent.append(code)
    return absent


def test_the_architecture_names_what_exists() -> None:
    assert absent_from_code(ARCHITECTURE) == []


def test_what_does_not_exist_is_noticed() -> None:
    right = ["model.py", "collector/model.py", "model.py:Step", "model.py:Step.changes", "Step.changes", "tests/cli/"]
    assert absent_from_code(", ".join(f"`{code}`" for code in right)) == []
    wrong = ["models.py", "model.py:Steps", "model.py:Step.change", "Step.change", "tests/clip/", "kube/model.py:Step"]
    assert absent_from_code(", ".join(f"`{code}`" for code in wrong)) == wrong
