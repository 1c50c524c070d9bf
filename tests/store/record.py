"""Records the rows that a collector of this version writes: `python -m tests.store.record`, once for each schema.

The rows stay as they are from then on: the tests of later versions update them, and go back to them.
"""

import gzip
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal

from collector.simulator import Simulator
from collector.store.identifiers import unpacked
from collector.store.schema import HEAD, METADATA
from tests.support.old_store import FOLDER
from tests.support.processes import CollectorProcess
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import until

SINKS = """
[store]
url = "sqlite://{folder}/gpuid.db"
[sinks.lake]
type = "webhook"
url = "{url}"
batch_age = "50ms"
[sinks.late]
type = "webhook"
url = "http://127.0.0.1:9/"
batch_age = "50ms"
[sinks.raw]
type = "webhook"
url = "http://127.0.0.1:9/"
emit = "readings"
batch_age = "50ms"
"""


def main() -> None:
    """Write the rows of a store in which everything has happened that a version may record."""
    with tempfile.TemporaryDirectory() as name, receiving() as receiver:
        folder = Path(name)
        simulator = Simulator(clusters=2, nodes=3, gpus=2, latency=0.01, directory=folder / "simulator")
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(simulator):
            collector = CollectorProcess(folder)
            collector.configure(
                dict.fromkeys(simulator.clusters, simulator.kubeconfig),
                after=SINKS.format(folder=folder, url=receiver.url),
            )
            _happen(collector, simulator, receiver, folder / "gpuid.db")
        rows = _rows(folder / "gpuid.db")
    with (FOLDER / f"{HEAD}.json.gz").open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(json.dumps(rows, separators=(",", ":")).encode())


def _happen(collector: CollectorProcess, simulator: Simulator, receiver: Receiver, store: Path) -> None:
    """Let GPUs appear, be delivered, be rejected, move, lose their serials and vanish, and mark one."""

    def count(event: str) -> int:
        return int(_query(store, f"SELECT count(*) FROM gpuid_changes WHERE event = '{event}'")[0][0])

    east, west = simulator.clusters.values()
    (first, second, _), (third, fourth, _) = sorted(east.nodes), sorted(west.nodes)
    collector.start()
    until(lambda: len(collector.gpus()), 12)
    until(lambda: sum(len(request.records) for request in receiver.accepted), 12)
    receiver.respond(422, "no such table")
    east.move_gpu(first, to_node=third, to_cluster=west.name)
    until(lambda: count("moved"), 1)
    until(lambda: _query(store, "SELECT count(*) FROM gpuid_dead_letters")[0][0])
    east.hide_serials(second)
    east.restart_pod(second)
    until(lambda: count("altered"), 2)
    west.delete_node(fourth)
    until(lambda: count("vanished") >= 2)
    assert collector.stop(signal.SIGTERM) == 0
    ((serial,),) = _query(
        store, "SELECT serial FROM gpuid_placements WHERE until IS NULL AND serial IS NOT NULL ORDER BY serial LIMIT 1"
    )
    mark = ["mark", serial, "--as", "rma", "--note", "burnt", "--ticket", "OPS-1", "-c", str(collector.config)]
    subprocess.run([sys.executable, "-m", "collector", *mark], check=True)


def _query(store: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def _rows(store: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the tables that have any."""
    found: dict[str, list[dict[str, Any]]] = {}
    with closing(sqlite3.connect(store)) as connection:
        connection.row_factory = sqlite3.Row
        for name, table in sorted(METADATA.tables.items()):
            names = list(table.c.keys())
            columns = ", ".join(names)
            rows = connection.execute(f"SELECT {columns} FROM {name} ORDER BY 1, 2").fetchall()
            if rows:
                found[name] = [
                    {key: _value(unpacked(row[key]) if key == "uuid" else row[key]) for key in names} for row in rows
                ]
    return found


def _value(value: Any) -> Any:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


if __name__ == "__main__":
    main()
