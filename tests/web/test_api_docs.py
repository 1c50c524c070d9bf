"""docs/api.md: its tables are the tables of the code, and its examples work."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from anyio.from_thread import start_blocking_portal

from collector.views.columns import Shown, flat_columns
from collector.web.operation import Operation
from collector.web.operations import OPERATIONS
from collector.web.problem import Code, status_of
from tests.web.conftest import keeping, make_site, serve_site
from tests.web.test_openapi import HASH, fill

DOCUMENT = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
SHOWN = {Shown.TABLE: "table", Shown.WIDE: "wide", Shown.REST: "json, csv"}


def operations() -> str:
    """Return the table of operations."""
    rows = [f"| `{one.method} {one.path}` | {one.summary} | {_parameters(one)} |" for one in OPERATIONS]
    return "\n".join(["| operation | what it does | parameters |", "|---|---|---|", *rows])


def _parameters(operation: Operation) -> str:
    return ", ".join(f"`{one.name}`" for one in operation.parameters if not one.in_path) or "none"


def parameters() -> str:
    """Return the table of parameters; one that is described in two ways has two rows."""
    rows = dict.fromkeys(
        f"| `{one.name}` | {one.description}{' May be repeated.' if one.repeated else ''} |"
        for operation in OPERATIONS
        for one in operation.parameters
        if not one.in_path
    )
    return "\n".join(["| parameter | meaning |", "|---|---|", *sorted(rows)])


def columns() -> str:
    """Return a table of the columns of each kind of rows."""
    kinds: dict[str, type[msgspec.Struct]] = {one.rows: one.answer for one in OPERATIONS if one.rows}
    parts = []
    for name, kind in kinds.items():
        rows = [f"| `{one.name}` | {one.kind} | {SHOWN[one.shown]} | {one.description} |" for one in flat_columns(kind)]
        parts.append(
            "\n".join([f"### {name}", "", "| column | type | shown in | meaning |", "|---|---|---|---|", *rows])
        )
    return "\n\n".join(parts)


def codes() -> str:
    """Return the table of the words in `code`."""
    rows = [f"| {status_of(code)} | `{code}` |" for code in sorted(Code, key=lambda one: (status_of(one), one))]
    return "\n".join(["| status | code |", "|---|---|", *rows])


@pytest.mark.parametrize("table", [operations, parameters, columns, codes])
def test_documented_tables_match_the_code(table: object) -> None:
    assert callable(table)
    expected = table()
    assert expected in DOCUMENT, f"docs/api.md should have:\n{expected}"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A collector with a store and users."""
    site = make_site()
    fill(site)
    with start_blocking_portal() as portal:
        kept = portal.wrap_async_context_manager(keeping(site, tmp_path_factory.mktemp("store")))
        with kept, portal.wrap_async_context_manager(serve_site(site, basic_auth={"sre": HASH})) as client:
            yield f"http://sre:secret@127.0.0.1:{client.base_url.port}"


@pytest.mark.parametrize("example", EXAMPLES)
def test_documented_examples_work(example: str, url: str, tmp_path: Path) -> None:
    text = example.replace("https://gpuid.example.com", url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{text}\n{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()
