"""List output of the commands: their shared options, the formats table, wide, json and csv, and the exit code."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from collector.cli.client import MAX_PAGE_SIZE
from collector.cli.formats import Cells, Layout, Output, Row, Sort, age, layout_of, print_rows, sorted_rows, taken
from collector.cli.options import ParsedText
from collector.cli.suggestions import unknown_name
from collector.cli.table import Style, wrapped
from collector.cli.watching import watch_rows
from collector.config import Duration

__all__ = [
    "Layout",
    "Output",
    "Row",
    "Sort",
    "age",
    "layout_of",
    "output_options",
    "page_size",
    "print_footer",
    "print_rows",
    "show_rows",
    "sorted_rows",
    "taken",
]

NOTHING_FOUND_EXIT_CODE = 1
_WATCH_INTERVAL = "2s"
_MIN_WATCH_SECONDS = 0.1

F = TypeVar("F", bound=Callable[..., Any])


def output_options(layout: Layout, *, watch: bool = False) -> Callable[[F], F]:
    """Add the options of a list with these columns; the command gets `output: Output`.

    They are `-o`, `--no-headers`, `--sort`, `--limit` and, with `watch`, `-w`.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def command(*args: Any, **kwargs: Any) -> Any:
            output = Output(
                format=kwargs.pop("output_format"),
                headers=not kwargs.pop("no_headers"),
                sort=kwargs.pop("sort"),
                limit=kwargs.pop("limit"),
                watch=kwargs.pop("watch", None),
            )
            return function(*args, output=output, **kwargs)

        decorated: Any = command
        for option in reversed(_options(layout, watch=watch)):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def _options(layout: Layout, *, watch: bool) -> list[Callable[[Any], Any]]:
    known = ("table", *(("wide",) if layout.wide != layout.table else ()), "json", "csv")
    more = "wide has more columns than table; json and csv have every field." if "wide" in known else ""
    options = [
        click.option(
            "-o",
            "--output",
            "output_format",
            type=click.Choice(known),
            default="table",
            show_default=True,
            help=f"Output format: {more}" if more else "Output format.",
        ),
        click.option("--json", "output_format", flag_value="json", hidden=True, help="Same as -o json."),
        click.option("--no-headers", is_flag=True, help="Print only rows."),
        click.option(
            "--sort",
            type=_SortType(layout.keys),
            metavar="KEY",
            help="Sort by a column; -KEY sorts in descending order.",
        ),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Print at most N rows."),
    ]
    if watch:
        options.append(
            click.option(
                "-w",
                "--watch",
                type=ParsedText("duration", _interval),
                is_flag=False,
                flag_value=_WATCH_INTERVAL,
                metavar="[INTERVAL]",
                help=f"Refresh every {_WATCH_INTERVAL}, or --watch=INTERVAL: on a terminal the table is"
                " redrawn, elsewhere new and changed rows are appended.",
            )
        )
    return options


class _SortType(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A column, prefixed with a minus for descending order."""

    name = "key"

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the Sort."""
        if not isinstance(value, str):
            return value
        key = value.removeprefix("-")
        if key not in self._columns:
            self.fail(unknown_name("column", key, self._columns), param, ctx)
        return Sort(key, value.startswith("-"))

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Return the columns with this prefix."""
        return [CompletionItem(column) for column in self._columns if column.startswith(incomplete)]


def _interval(text: object) -> Duration:
    try:
        interval = Duration.parse(text)
    except ValueError as error:
        raise ValueError(f"{error}; put --watch after the arguments, or write --watch=5s") from None
    if interval < _MIN_WATCH_SECONDS:
        raise ValueError("must be at least 100ms")
    return interval


def page_size(output: Output, *, whole: bool = False) -> int:
    """Return how many rows to request per page: only those printed, unless the `whole` list is sorted here."""
    return MAX_PAGE_SIZE if whole or output.sort or output.limit is None else min(output.limit, MAX_PAGE_SIZE)


def print_footer(lines: Iterable[str], output: Output) -> None:
    """Print the lines after a table; without headers on standard error, so that programs see only rows."""
    click.echo(("\n" if output.headers else "") + "\n".join(map(wrapped, lines)), err=not output.headers)


def show_rows(
    layout: Layout,
    ask: Callable[[], Iterable[Row]],
    output: Output,
    *,
    nothing: str,
    cells: Cells | None = None,
    styles: Mapping[str, Style] | None = None,
    footer: Callable[[Sequence[Row]], Iterable[str]] | None = None,
) -> None:
    """Print the rows that `ask` returns in the chosen format, and with `--watch` again whenever they change.

    See `print_rows` for the rest. `footer` returns the lines that `print_footer` prints. If nothing is found, the
    command exits with code 1.
    """
    if output.watch is not None:
        watch_rows(layout, ask, output, cells, styles or {})
        return
    if footer is None or output.format in {"json", "csv"}:
        found = print_rows(layout, ask(), output, nothing=nothing, cells=cells, styles=styles)
    else:
        rows = list(taken(ask(), output))
        found = print_rows(layout, rows, output, nothing=nothing, cells=cells, styles=styles)
        if rows and (lines := list(footer(rows))):
            print_footer(lines, output)
    if not found:
        click.get_current_context().exit(NOTHING_FOUND_EXIT_CODE)
