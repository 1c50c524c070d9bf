"""What the documents say about metrics, rooms, code and each other is true."""

import ast
import functools
import re
import tomllib
from pathlib import Path

import click
import pytest

from collector.cli import gpuid
from collector.config import PRESETS, ServerSettings
from collector.exposition.families import FAMILIES
from collector.model import ClusterState
from collector.sinks.webhook import _ABOUT_RECORDS
from collector.web.application import ROUTES

ROOT = Path(__file__).parents[1]
TOPS = ("config", "docs", "grafana", "tests")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
METRICS = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *(path for top in TOPS for path in (ROOT / top).rglob("*.md"))]
)


def test_the_metrics_table_matches_the_code() -> None:
    rows = [f"| `{family.name}` | {family.kind} | {', '.join(family.labels)} | {family.help} |" for family in FAMILIES]
    table = "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])
    assert table in METRICS, f"the table in docs/metrics.md should be:\n{table}"


def links(document: Path) -> list[str]:
    """Return where a document links within the repository."""
    text = without_code(document.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(document: str) -> None:
    broken = []
    for target in links(ROOT / document):
        path, _, anchor = target.partition("#")
        found = ((ROOT / document).parent / path).resolve() if path else ROOT / document
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(target)
    assert broken == []


def test_the_readme_links_to_every_document() -> None:
    reached, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        document = ahead.pop()
        reached.add(document)
        linked = {(document.parent / target.partition("#")[0]).resolve() for target in links(document)}
        ahead += [path for path in linked if path.suffix == ".md" and path not in reached]
    unreached = {document for document in DOCUMENTS if ROOT / document not in reached}
    assert unreached == set()


def test_every_promise_of_security_names_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promises = text.partition("\n## What gpuid promises\n")[2].partition("\n## ")[0]
    rows = [row for row in re.findall(r"^\| (.+) \| (.+) \|$", promises, re.MULTILINE) if row[1] != "test"]
    assert len(rows) > 15
    for promise, cell in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)`", cell)
        assert tests, f"no test holds: {promise}"
        for path in tests:
            assert "def test_" in (ROOT / path).read_text(encoding="utf-8"), path
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_documented_commands_are_those_of_gpuid() -> None:
    table = (ROOT / "docs/commands.md").read_text(encoding="utf-8").partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    named = {word.split()[1] for cell in first_cells for word in re.findall(r"`(gpuid [^`]+)`", cell)}
    marks = {"unmark", "marks"}  # in the row of `mark`
    assert named | marks == set(gpuid.list_commands(click.Context(gpuid)))


def test_every_path_is_documented() -> None:
    text = (ROOT / "docs/http.md").read_text(encoding="utf-8")
    documented = {re.sub(r"[A-Z]{3,}", "X", path.partition("?")[0]) for path in re.findall(r"`(/[^`]*)`", text)}
    served = {re.sub(r"\{\w+(?::[^}]*)?\}", "X", path) for path in ROUTES if not path.startswith("/api/")}
    assert served - documented == {"/static/X"}


def first_cells(document: str, header: str) -> set[str]:
    """Return the code in the first cells of the table that has a header."""
    rows = (ROOT / document).read_text(encoding="utf-8").partition(f"\n{header}\n")[2].partition("\n\n")[0]
    cells = re.findall(r"^\|([^|]+)\|", rows, re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`([^`]+)`", cell)}


def test_troubleshooting_has_every_state_of_a_cluster_that_is_down() -> None:
    states = set(ClusterState) - {ClusterState.UP, ClusterState.STARTING}
    assert first_cells("docs/troubleshooting.md", "| state | look at |") >= states


def test_the_support_matrix_has_every_preset_and_python() -> None:
    text = (ROOT / "docs/support.md").read_text(encoding="utf-8")
    assert [preset for preset in PRESETS if f"`{preset}`" not in text] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    row = re.search(r"^\| Python \|.+$", text, re.MULTILINE)
    assert row is not None
    assert [version for version in versions if version not in row[0]] == []


def test_server_keys_named_in_http_md_exist() -> None:
    named = first_cells("docs/http.md", "| key of `[server]` | limit |")
    assert named
    assert named <= set(ServerSettings.__struct_fields__)


def test_what_makes_a_dead_letter_is_as_documented() -> None:
    text = (ROOT / "docs/sinks.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^- webhook: ([\d, and]+)", text, re.MULTILINE)
    assert {int(status) for status in re.findall(r"\d+", line)} == set(_ABOUT_RECORDS)


def test_the_readme_installs_with_tested_commands() -> None:
    shown = README.partition("<!-- helm -->\n```sh\n")[2].partition("```")[0].splitlines()
    text = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")
    tried = text.partition("```sh\n")[2].partition("```")[0].splitlines()  # by tests/control_plane/test_guides.py
    assert len(shown) > 3
    assert [line for line in tried if line in shown] == shown


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
    right = [
        "backoff.py",
        "collector/backoff.py",
        "model/change.py:Step",
        "model/change.py:Step.changes",
        "Step.changes",
        "tests/cli/",
    ]
    assert absent_from_code(", ".join(f"`{code}`" for code in right)) == []
    wrong = [
        "backoffs.py",
        "model/change.py:Steps",
        "model/change.py:Step.change",
        "Step.change",
        "tests/clip/",
        "kube/change.py:Step",
    ]
    assert absent_from_code(", ".join(f"`{code}`" for code in wrong)) == wrong
