"""The list of GPUs in all clusters: filters, order and rows."""

from aiohttp import web

from collector.health import Level
from collector.marks import MarkKind
from collector.views.cluster_summary import fleet_models
from collector.views.cluster_table import fleet_drivers
from collector.views.columns import PresenceState
from collector.views.fleet import GPU_SORT_KEYS, Filters, list_gpus, words_of
from collector.views.listing import Sort
from collector.web.keys import COLLECTOR, SUMMARIES
from collector.web.pages.paging import PAGE_ROWS, window
from collector.web.pages.rendering import page
from collector.web.params import choice

__all__ = ["CHOICES", "TEXTS", "gpus"]

MAX_ROWS = 10_000  # shown on all pages of a list; more are available as CSV
CHOICES: dict[str, dict[str, str]] = {
    "state": {"": "Any state", PresenceState.FOUND: "Answering", PresenceState.LOST: "Lost"},
    "level": {"": "Any condition", Level.REPLACE: "Needs replacement", Level.RESET: "Needs a reset or drain"},
    "mark": {"": "Marked or not", **{str(kind): f"Marked {kind}" for kind in MarkKind}},
}
TEXTS = ("cluster", "model", "driver_version")  # filters by any text


async def gpus(request: web.Request) -> web.Response:
    """Show the GPUs that match the filters; the words in `q` must occur in their names, and `sort` orders them."""
    collector = request.app[COLLECTOR]
    summaries = await request.app[SUMMARIES].all()
    wanted = {name: request.query.get(name, "") for name in TEXTS}
    wanted |= {name: choice(request, name, list(known)) for name, known in CHOICES.items()}
    text = request.query.get("q", "").strip()
    sort = choice(request, "sort", [*GPU_SORT_KEYS, *(f"-{key}" for key in GPU_SORT_KEYS if key)])
    filters: Filters = {name: frozenset([value]) for name, value in wanted.items() if value}
    asked = min(window(request, MAX_ROWS).number * PAGE_ROWS, MAX_ROWS)
    found = await list_gpus(
        collector,
        filters,
        words=words_of(text),
        sort=Sort(sort.removeprefix("-"), sort.startswith("-")),
        limit=asked,
    )
    total = found.total or 0
    part = window(request, min(total, MAX_ROWS))
    return await page(
        request,
        "gpus.html",
        gpus=[(one, collector.inventory.node(one.place)) for one in found.rows[part.offset : part.offset + PAGE_ROWS]],
        total=total,
        distinct=total if filters or text else min(total, fleet_models(summaries).total()),
        most=MAX_ROWS,
        window=part,
        wanted=wanted,
        text=text,
        filtered=bool(filters or text),
        sort=sort,
        choices=CHOICES,
        cluster_names=[one.name for one in summaries],
        models=sorted(model for model in fleet_models(summaries) if model),
        drivers=fleet_drivers(summaries),
    )
