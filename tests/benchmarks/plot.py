"""Draws what a scrape and a change cost against the size of the fleet, as an SVG."""

import functools
import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry, generate_latest

from tests.benchmarks import change
from tests.benchmarks.clocks import best, best_async
from tests.benchmarks.fleet import Published
from tests.benchmarks.scrape import same_series
from tests.benchmarks.table import duration

__all__ = ["draw"]

_Points = Sequence[tuple[float, float]]  # GPUs, seconds

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 720, 400, 70, 50, 20, 210
_COLOURS = ("#c0392b", "#2471a3", "#1e8449")


def draw(path: Path, sizes: Sequence[tuple[int, int]] = change.SIZES) -> None:
    """Measure fleets of `sizes` (clusters × nodes) and draw the lines."""
    scrapes, peers, changes = [], [], []
    for clusters, nodes in sizes:
        published = Published(clusters, nodes, change.GPUS)
        gpus = float(clusters * nodes * change.GPUS)
        scrapes.append((gpus, uvloop.run(_scrape(published))))
        registry = same_series(published)
        peers.append((gpus, best(functools.partial(_compressed, registry), runs=1)))
        changes.append((gpus, change.cost(clusters, nodes, changes=50)))
    lines = (("generate_latest + gzip", peers), ("scrape of gpuid", scrapes), ("one change in gpuid", changes))
    path.write_text(_svg(lines), encoding="utf-8")


def _compressed(registry: CollectorRegistry) -> bytes:
    return gzip.compress(generate_latest(registry))


async def _scrape(published: Published) -> float:
    async def scrape() -> bytes:
        return b"".join((await published.exposition.scrape(gzip=True)).chunks)

    await scrape()
    return await best_async(scrape, runs=5)


def _svg(lines: Sequence[tuple[str, _Points]]) -> str:
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    x_from, x_to = math.log10(min(xs)), math.log10(max(xs))
    y_from, y_to = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_from) / (x_to - x_from) * (_WIDTH - _LEFT - _RIGHT)
        up = (math.log10(y) - y_from) / (y_to - y_from) * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + across, 1), round(_HEIGHT - _BOTTOM - up, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for exponent in range(y_from, y_to + 1):
        _, y = place(min(xs), 10.0**exponent)
        parts.append(f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{duration(10.0**exponent)}</text>')
    for gpus in sorted(set(xs)):
        x, _ = place(gpus, ys[0])
        parts.append(f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{gpus:,.0f}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">GPUs in the fleet</text>')
    for (name, points), colour in zip(lines, _COLOURS, strict=True):
        dots = [place(*point) for point in points]
        path = "L".join(f"{x} {y}" for x, y in dots)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in dots]
        x, y = dots[-1]
        parts.append(f'<text x="{x + 10}" y="{y + 4}" fill="{colour}">{name}: {duration(points[-1][1])}</text>')
    return "\n".join([*parts, "</svg>\n"])
