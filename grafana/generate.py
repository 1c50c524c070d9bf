"""Writes the dashboards as JSON, one file each: `python -m grafana.generate`."""

import json
from collections.abc import Callable
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana import collector, fleet, health, node, serial
from grafana.navigation import Dashboard

__all__ = ["DASHBOARDS", "FOLDER", "text"]

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS: dict[str, Callable[[], Dashboard]] = {
    "fleet": fleet.dashboard,
    "serial": serial.dashboard,
    "node": node.dashboard,
    "health": health.dashboard,
    "collector": collector.dashboard,
}


def text(dashboard: Dashboard) -> str:
    """Return a dashboard as JSON with sorted keys, so that two versions can be compared."""
    return json.dumps(dashboard, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, make in DASHBOARDS.items():
        (FOLDER / f"{name}.json").write_text(text(make()), encoding="utf-8")
