"""What the README says of the metrics is what the collector publishes; CONTRIBUTING knows every room."""

import re
import tomllib
from pathlib import Path

from collector.exposition.families import FAMILIES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_metrics_table_is_the_table_of_the_code() -> None:
    rows = [f"| `{family.name}` | {family.kind} | {', '.join(family.labels)} | {family.help} |" for family in FAMILIES]
    table = "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])
    assert table in README, f"the table in README.md should be:\n{table}"


def test_contributing_lists_the_rooms_in_the_order_that_is_checked() -> None:
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = contributing.partition("\n## Layers\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = re.findall(r"collector\.(\w+)", " ".join(linter["contracts"][0]["layers"]))
    assert re.findall(r"`(\w+)`", " ".join(rows)) == layers
