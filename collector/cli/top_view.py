"""The screen of `gpuid top`: totals, the worst problems, the clusters that fit, and the latest changes."""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.text import Text

from collector.cli.condition import level_style
from collector.cli.output import age
from collector.cli.table import Style, cut_middle, cut_table, event_style
from collector.health import Level
from collector.text import counted, natural_key, one_line
from collector.views.humanize import clock
from collector.views.latest_changes import groups_of_rows
from collector.views.recent_changes import ChangeGroup, Folded

__all__ = ["CLUSTER_STYLES", "Row", "Scroll", "Seen", "cluster_cells", "cluster_columns", "screen", "worst_first"]

_COLUMNS = ("cluster", "state", "nodes", "unread", "gpus", "missing", "lost", "degraded")
_TROUBLES = ("nodes_unread", "gpus_missing", "gpus_lost", "conflicts")
_MORE_COLUMNS = ("conflicts", "synced", "message")
_WIDE_TERMINAL_COLUMNS = 110  # fewest terminal columns with room for all
_CHANGE_COLUMNS = ("time", "event", "gpu", "cluster", "node", "changes")
_WIDE_CHANGE_COLUMNS = (*_CHANGE_COLUMNS, "from", "uuid")
_MAX_PROBLEMS = 3
_MIN_CLUSTERS = 3  # rows reserved for clusters
_CHANGES_SHARE = 3  # the changes get a third of the screen
_SEVERITY_STYLES = {"critical": "red", "warning": "yellow"}
_HELP = "↑ ↓ PgUp PgDn: scroll   q: quit"

Row = Mapping[str, Any]

CLUSTER_STYLES: Mapping[str, Style] = {
    "state": lambda text: "green" if text == "up" else "red",
    "unread": lambda text: "red" if text not in ("0", "-") else "",
    "missing": lambda text: "red" if text not in ("0", "-") else "",
    "lost": lambda text: "red" if text not in ("0", "-") else "",
    "degraded": level_style,
    "event": event_style,
}


class Seen(NamedTuple):
    """A collector's latest answer."""

    clusters: Sequence[Row] = ()
    problems: Sequence[Row] = ()
    changes: Sequence[Row] = ()  # oldest first
    failure: str = ""
    time: float = 0.0  # of the latest answer (Unix seconds)


class Scroll:
    """Which clusters are on the screen."""

    def __init__(self) -> None:
        self.first = 0
        self.rows = 1  # that fit
        self.total = 0

    def press(self, key: str) -> None:
        """Handle a key."""
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "page up": -self.rows,
            "b": -self.rows,
            "page down": self.rows,
            " ": self.rows,
            "home": -self.total,
            "g": -self.total,
            "end": self.total,
            "G": self.total,
        }
        self.first += steps.get(key, 0)
        self.fit(self.total, self.rows)

    def fit(self, total: int, rows: int) -> None:
        """Keep the visible part within the list."""
        self.total, self.rows = total, max(1, rows)
        self.first = max(0, min(self.first, self.total - self.rows))


def cluster_columns(width: int) -> tuple[str, ...]:
    """Return the cluster columns that fit the terminal."""
    return _COLUMNS if width < _WIDE_TERMINAL_COLUMNS else (*_COLUMNS, *_MORE_COLUMNS)


def cluster_cells(cluster: Row, columns: Sequence[str], now: float) -> list[object]:
    """Return the cells of a cluster's row; an older collector may not report all of them."""
    counts = cluster.get("gpus_degraded")
    known = counts if isinstance(counts, Mapping) else {}
    values = {
        **cluster,
        "unread": cluster.get("nodes_unread"),
        "missing": cluster.get("gpus_missing"),
        "lost": cluster.get("gpus_lost"),
        "degraded": ", ".join(f"{known[level]} {level}" for level in Level if known.get(level)),
        "synced": age(cluster.get("synced_at"), now),
    }
    return [values.get(column) for column in columns]


def worst_first(clusters: Sequence[Row]) -> list[Row]:
    """Return clusters that are down first, then those with problems; each group in natural order."""
    return sorted(clusters, key=lambda one: (bool(one["up"]), not _has_trouble(one), natural_key(str(one["cluster"]))))


def _has_trouble(cluster: Row) -> bool:
    degraded = cluster.get("gpus_degraded")
    counts = degraded if isinstance(degraded, Mapping) else {}
    return any(counts.values()) or any(cluster.get(name) for name in _TROUBLES)


def screen(seen: Seen, scroll: Scroll, width: int, height: int) -> Group:
    """Return the whole screen; changes keep their place however many clusters there are."""
    now = time.time()
    head: list[Any] = [Text(cut_middle(one_line(seen.failure), width), "red")] if seen.failure else []
    head += [Text(cut_middle(_totals(seen), width), "bold"), *_problems(seen.problems, width), Text()]
    left = height - len(head) - 2  # the clusters' header and the last line
    changes = list(itertools.islice(_grouped(seen.changes, width), max(0, height // _CHANGES_SHARE - 2)))
    most = max(0, left - _MIN_CLUSTERS - 2)  # a blank line and a heading
    changes = changes[: max(most, left - 2 - len(seen.clusters))]
    rows = left - (len(changes) + 2 if changes else 0)
    scroll.fit(len(seen.clusters), rows)
    columns = cluster_columns(width)
    shown = worst_first(seen.clusters)[scroll.first : scroll.first + scroll.rows]
    cells = (cluster_cells(cluster, columns, now) for cluster in shown)
    parts = [*head, cut_table(columns, cells, styles=CLUSTER_STYLES, width=width)]
    parts += [Text()] * max(0, rows - len(shown) if changes else 0)
    if changes:
        change_columns = _WIDE_CHANGE_COLUMNS if width >= _WIDE_TERMINAL_COLUMNS else _CHANGE_COLUMNS
        parts += [Text(), cut_table(change_columns, changes, styles=CLUSTER_STYLES, width=width)]
    parts.append(Text(cut_middle(_foot(scroll, len(shown)), width), "dim"))
    return Group(*parts)


def _totals(seen: Seen) -> str:
    clusters = seen.clusters

    def total(name: str) -> int:
        return sum(value for one in clusters if isinstance(value := one.get(name), int))

    unread = f", {total('nodes_unread'):,} unread" if total("nodes_unread") else ""
    missing = f", {total('gpus_missing'):,} missing" if total("gpus_missing") else ""
    lost = f", {total('gpus_lost'):,} lost" if total("gpus_lost") else ""
    return (
        f"{total('up')} of {counted(len(clusters), 'cluster')} up, {total('nodes_read'):,} of {total('nodes'):,} nodes"
        f" read{unread}, {counted(total('gpus'), 'GPU')}{missing}{lost}"
        f"  {'as of ' if seen.failure else ''}{clock(seen.time)}Z"
    )


def _problems(problems: Sequence[Row], width: int) -> Iterator[Text]:
    """Yield the worst problems, one per line, and the number of others."""
    for problem in problems[:_MAX_PROBLEMS]:
        severity = one_line(problem.get("severity"), 8)
        title = cut_middle(one_line(problem.get("title")), max(1, width - 10))
        yield Text.assemble((severity.ljust(10), _SEVERITY_STYLES.get(severity, "")), title, no_wrap=True)
    if (more := len(problems) - _MAX_PROBLEMS) > 0:
        yield Text(cut_middle(f"{'':10}and {counted(more, 'more problem')}: gpuid status", width), "dim")


def _foot(scroll: Scroll, shown: int) -> str:
    if shown == scroll.total:
        return _HELP
    return f"{scroll.first + 1}-{scroll.first + shown} of {counted(scroll.total, 'cluster')}   {_HELP}"


def _grouped(changes: Sequence[Row], width: int) -> Iterator[list[object]]:
    """Yield rows of changes, newest first, grouped like on the page."""
    for group in groups_of_rows(changes):
        row = _row(group)
        yield row if width >= _WIDE_TERMINAL_COLUMNS else row[: len(_CHANGE_COLUMNS)]


def _row(group: ChangeGroup) -> list[object]:
    (gpu,) = group.gpus if len(group.gpus) == 1 and len(group.left) < 2 else (None,)
    return [
        f"{clock(group.time)}Z",
        group.event,
        counted(group.size, "GPU") if gpu is None else gpu.serial,
        group.place.cluster,
        group.place.node if group.nodes == 1 else counted(group.nodes, "node"),
        _what(group),
        "" if group.previous is None else f"{group.previous.node} of {group.previous.cluster}",
        "" if gpu is None else gpu.uuid,
    ]


def _what(group: ChangeGroup) -> str:
    if group.event == Folded.REPLACED and len(group.left) == 1:
        return f"instead of {group.left[0].serial or group.left[0].uuid}"
    return group.summary
