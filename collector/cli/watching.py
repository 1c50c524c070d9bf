"""`--watch`: refreshes a list, redrawing it on a terminal and appending changes elsewhere."""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from collector.cli.console import encode_json, output_console
from collector.cli.errors import CommandError
from collector.cli.formats import ROW_STYLES, Cells, Layout, Output, Row, cells_of, print_rows, taken
from collector.cli.table import Style, cut_table
from collector.text import one_line

__all__ = ["watch_rows"]


def watch_rows(
    layout: Layout,
    ask: Callable[[], Iterable[Row]],
    output: Output,
    cells: Cells | None,
    styles: Mapping[str, Style],
) -> None:
    """Show what `ask` returns, again and again, until Ctrl-C; the first call must succeed."""
    rows = list(taken(ask(), output))
    redraws = sys.stdout.isatty() and output.format in {"table", "wide"}
    view = (_Screen if redraws else _Appended)(layout, output, cells, styles)
    with suppress(KeyboardInterrupt), view:
        failure = ""
        while True:
            view.update(rows, failure)
            assert output.watch is not None  # noqa: S101
            time.sleep(output.watch)
            try:
                rows, failure = list(taken(ask(), output)), ""
            except CommandError as error:
                failure = error.format_message()


class _Screen:
    """The rows as a table that fills the terminal, redrawn with each refresh."""

    def __init__(self, layout: Layout, output: Output, cells: Cells | None, styles: Mapping[str, Style]) -> None:
        from rich.live import Live

        self._layout, self._cells, self._output, self._styles = layout, cells, output, styles
        self._live = Live(console=output_console(), screen=True, auto_refresh=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, rows: Sequence[Row], failure: str) -> None:
        from rich.console import Group
        from rich.text import Text

        wide = self._output.format == "wide"
        columns = self._layout.wide if wide else self._layout.table
        room = max(1, self._live.console.height - self._output.headers - bool(failure))
        shown = rows if len(rows) <= room else rows[: room - 1]
        parts: list[Any] = [Text(one_line(failure), "red", no_wrap=True, overflow="ellipsis")] if failure else []
        parts.append(
            cut_table(
                columns,
                map(cells_of(self._layout, self._cells, wide=wide), shown),
                styles={**ROW_STYLES, **self._styles},
                headers=self._output.headers,
                width=None if not wide else sys.maxsize,
            )
        )
        if len(shown) < len(rows):
            parts.append(Text(f"… and {len(rows) - len(shown):,} more", "dim"))
        self._live.update(Group(*parts), refresh=True)


class _Appended:
    """The rows, followed by those that are new or changed."""

    def __init__(self, layout: Layout, output: Output, cells: Cells | None, styles: Mapping[str, Style]) -> None:
        self._layout, self._cells, self._output, self._styles = layout, cells, output, styles
        self._printed: set[str] = set()
        self._headers = output.headers
        self._failure = ""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, rows: Sequence[Row], failure: str) -> None:
        if failure and failure != self._failure:
            click.echo(f"gpuid: {one_line(failure)}", err=True)
        self._failure = failure
        keys = {self._key(row): row for row in rows}
        new = [row for key, row in keys.items() if key not in self._printed]
        self._printed = set(keys)
        if new and self._output.format == "json":
            click.echo("\n".join(map(encode_json, new)))  # an array without an end is not JSON, but lines are
        elif new:
            print_rows(
                self._layout,
                new,
                self._output._replace(headers=self._headers, sort=None, limit=None),
                nothing="",
                cells=self._cells,
                styles=self._styles,
            )
            self._headers = False
        sys.stdout.flush()

    def _key(self, row: Row) -> str:
        """Return the printed part of a row, without ages."""
        if self._output.format in {"json", "csv"}:
            return encode_json(row)
        columns = self._layout.wide if self._output.format == "wide" else self._layout.table
        return encode_json([row.get(column) for column in columns])
