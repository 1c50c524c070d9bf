"""`python -m tests.benchmarks [NAME …] [--write] [--plot]`: every comparison as one Markdown table."""

import argparse
import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.benchmarks import plot
from tests.benchmarks.table import HEAD, Row, markdown

_ORDER = (
    "scrape",
    "change",
    "watch",
    "parse",
    "read",
    "first_reading",
    "start",
    "history",
    "past",
    "delivery",
    "whole",
    "shards",
)
COMPARISONS = [name for name in _ORDER if importlib.util.find_spec(f"tests.benchmarks.{name}")]
RESULTS = Path(__file__).with_name("RESULTS.md")
_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the chosen comparisons and print their rows as they come."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which ones; default: all of {', '.join(COMPARISONS)}"
    )
    parser.add_argument("--small", action="store_true", help="a few nodes only, to see that everything works")
    parser.add_argument("--write", action="store_true", help=f"put the rows into {RESULTS.name}")
    parser.add_argument("--plot", action="store_true", help="also draw the plot, which needs more measurements")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(COMPARISONS):
        parser.error(f"there is no comparison {', '.join(sorted(unknown))}; there are {', '.join(COMPARISONS)}")
    print(HEAD, flush=True)
    found = [row for name in options.names or COMPARISONS for row in _printed(rows(name, small=options.small))]
    if options.write:
        _write(found)
    if options.plot:
        plot.draw(RESULTS.with_name("cost.svg"))


def rows(name: str, *, small: bool = False) -> Iterable[Row]:
    """Run one comparison."""
    return (Row(*row) for row in importlib.import_module(f"tests.benchmarks.{name}").rows(small=small))


def _printed(found: Iterable[Row]) -> Iterator[Row]:
    for row in found:
        print(markdown(row), flush=True)
        yield row


def _write(found: Sequence[Row]) -> None:
    """Put rows where the table is; those of comparisons that did not run stay."""
    head, begin, rest = RESULTS.read_text(encoding="utf-8").partition(_BEGIN)
    old, end, tail = rest.partition(_END)
    lines = {line.split(" | ")[0]: line for line in old.splitlines() if line not in HEAD.splitlines()}
    lines |= {markdown(row).split(" | ")[0]: markdown(row) for row in found}
    RESULTS.write_text("".join([head, begin, "\n".join([HEAD, *lines.values()]), "\n", end, tail]), encoding="utf-8")


if __name__ == "__main__":
    main()
