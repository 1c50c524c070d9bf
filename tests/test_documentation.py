"""What the README says of the metrics is what the collector publishes."""

from pathlib import Path

from collector.exposition.families import FAMILIES

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_metrics_table_is_the_table_of_the_code() -> None:
    rows = [f"| `{family.name}` | {family.kind} | {', '.join(family.labels)} | {family.help} |" for family in FAMILIES]
    table = "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows])
    assert table in README, f"the table in README.md should be:\n{table}"
