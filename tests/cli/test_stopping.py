"""Stopping `gpuid run`: within one deadline whatever hangs, with a line for anything not stored."""

import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from collector.end_deadline import END_SECONDS
from collector.simulator import Simulator
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.processes import CollectorProcess
from tests.support.receiver import receiving
from tests.support.waiting import until

__all__ = ["postgres_server"]

pytestmark = pytest.mark.alone  # how long stopping takes is measured

LIMIT_SECONDS = END_SECONDS + 4.0  # until the process is gone, on a busy machine
PROMPT_SECONDS = 7.0  # until it is gone when nothing hangs, on a busy machine; less than for what hangs


class Site:
    """A simulated cluster of two nodes with two GPUs each, and a collector of it."""

    def __init__(self, folder: Path, simulator: Simulator, portal: BlockingPortal) -> None:
        self.folder, self.simulator = folder, simulator
        self.database = folder / "gpuid.db"
        self.collector = CollectorProcess(folder)
        self.collector.env |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        self._portal = portal

    def start(self, *, store: str = "", clusters: str = "", sinks: str = "") -> CollectorProcess:
        """Start the collector and wait until it has read everything, and recorded it."""
        self.configure(store=store, clusters=clusters, sinks=sinks)
        self.collector.start()
        until(lambda: self.collector.total("gpuid_gpu_info"), 4)
        until(lambda: self.collector.total("gpuid_store_pending_records"), 0)
        return self.collector

    def configure(self, *, store: str = "", clusters: str = "", sinks: str = "") -> None:
        self.collector.configure(
            {"sim-0": self.simulator.kubeconfig},
            after=f'{clusters}\n[store]\nurl = "{store or f"sqlite://{self.database}"}"\n{sinks}',
        )

    def move_gpus(self) -> None:
        """Move two GPUs, and wait until the collector has noticed."""
        for _ in range(2):
            self._portal.call(self.simulator.clusters["sim-0"].move_gpu, "gpu-0000", "gpu-0001")
        until(lambda: (self.collector.total("gpuid_store_pending_records") or 0) >= 2)

    def stop(self, *signals: signal.Signals) -> tuple[int | None, float]:
        """Send signals, and return the exit status and the seconds until it was there."""
        started = time.monotonic()
        for number in signals[:-1]:
            self.collector.send(number)
            until(lambda: self.collector.logged("stopping on"))
        code = self.collector.stop(signals[-1], seconds=30)
        return code, time.monotonic() - started

    def errors(self) -> list[dict[str, Any]]:
        return [event for event in self.collector.events() if event["level"] == "error"]

    def lost(self) -> list[dict[str, Any]]:
        """Return the lines that say what was not stored; there may be one, the last error."""
        found = [event for event in self.errors() if "could not be stored" in event["message"]]
        assert found == [] or found == self.errors()[-1:]
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let another process write to the store's file, so that the collector waits for it in a thread."""
        connection = sqlite3.connect(self.database, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    simulator = Simulator(clusters=1, nodes=2, gpus=2, latency=0.01, directory=tmp_path / "simulator")
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(simulator):
        site = Site(tmp_path, simulator, portal)
        yield site
        site.collector.stop(signal.SIGKILL)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def hanging_sinks(address: str) -> str:
    return f"""
[sinks.hook]
type = "webhook"
url = "http://{address}/"
batch_age = "50ms"
[sinks.warehouse]
type = "postgres"
url = "postgresql://gpuid@{address}/gpuid"
batch_age = "50ms"
[sinks.lake]
type = "s3"
bucket = "gpuid"
region = "x"
endpoint_url = "http://{address}"
batch_age = "50ms"
"""


class TestDeadline:
    def test_it_stops_although_sinks_store_clients_and_plugins_hang(self, site: Site, silent: str) -> None:
        plugin = site.folder / "plugin"
        plugin.write_text("#!/bin/sh\ntrap '' TERM INT HUP\nsleep 60\nsleep 60\n")
        plugin.chmod(0o755)
        (site.folder / "plugged").write_text(plugged(plugin))
        clusters = f'[[clusters]]\ncontext = "plugged"\nkubeconfig = "{site.folder}/plugged"\n'
        site.start(clusters=clusters, sinks=hanging_sinks(silent))
        with contextlib.ExitStack() as stack:
            stack.enter_context(site.locked())
            for request in (b"GET /metrics HT", b"GET /changes/stream HTTP/1.1\r\nHost: a\r\n\r\n"):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", site.collector.port)))
                client.sendall(request)
            site.move_gpus()
            code, seconds = site.stop(signal.SIGTERM)
        assert code == 0, site.collector.tail()
        assert seconds < LIMIT_SECONDS
        assert "Traceback" not in site.collector.log.read_text()
        (line,) = site.lost()
        assert line["changes"] >= 2

    def test_a_second_signal_stops_it_immediately(self, site: Site, silent: str) -> None:
        site.start(sinks=hanging_sinks(silent))
        with site.locked():
            site.move_gpus()
            code, seconds = site.stop(signal.SIGTERM, signal.SIGINT)
        assert code == 0
        assert seconds < PROMPT_SECONDS
        assert len(site.lost()) == 1

    def test_it_stops_although_postgres_is_frozen(self, site: Site, postgres_server: PostgresServer) -> None:
        site.start(store=postgres_server.new_database())
        starting = CollectorProcess(site.folder, "starting")
        starting.configure(
            {"sim-0": site.simulator.kubeconfig}, after=f'[store]\nurl = "{postgres_server.new_database()}"\n'
        )
        with postgres_server.frozen():
            before = connections(postgres_server.port)
            starting.start()
            site.move_gpus()
            until(lambda: connections(postgres_server.port) > before)
            starting.send(signal.SIGTERM)
            code, seconds = site.stop(signal.SIGTERM)
            assert (code, starting.stop()) == (0, 0), site.collector.tail() + starting.tail()
        assert seconds < LIMIT_SECONDS
        assert len(site.lost()) == 1
        assert "Traceback" not in site.collector.log.read_text() + starting.log.read_text()

    @pytest.mark.parametrize("file", ["kubeconfig", "gpuid.toml", "gpuid.db.lock"])
    def test_it_stops_although_a_file_system_hangs(self, site: Site, file: str) -> None:
        (site.folder / "sitecustomize.py").write_text(HANGING_FILES)
        site.configure()
        site.collector.env |= {"PYTHONPATH": f"{site.folder}:{Path.cwd()}", "HANGING_FILE": file}
        site.collector.start()
        until((site.folder / "hangs").exists)
        code, seconds = site.stop(signal.SIGTERM)
        assert code == 0, site.collector.tail()
        assert seconds < LIMIT_SECONDS
        assert "Traceback" not in site.collector.tail()

    def test_it_stops_although_the_event_loop_and_log_hang(self, tmp_path: Path) -> None:
        """The unexpected: the main thread is stuck, and nothing reads the log any more."""
        reading, writing = os.pipe()
        process = subprocess.Popen([sys.executable, "-c", HANGING_PROCESS], stderr=writing, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert time.monotonic() - started < PROMPT_SECONDS
        process.stdout.close()
        os.close(reading)
        os.close(writing)


class TestWhatIsNotStored:
    def test_unstored_changes_are_reported_when_the_disk_is_full(self, site: Site) -> None:
        site.start(sinks='[sinks.readings]\ntype = "stdout"\nemit = "readings"\n')
        log, journal = (path.stat().st_size for path in (site.collector.log, Path(f"{site.database}-wal")))
        assert log + 20_000 < journal, "no limit lets only the log grow"
        site.collector.limit(resource.RLIMIT_FSIZE, log + 20_000)
        site.move_gpus()
        code, seconds = site.stop(signal.SIGTERM)
        assert code == 0
        assert seconds < LIMIT_SECONDS
        (line,) = site.lost()
        assert line["changes"] >= 2
        assert line["records"] >= 2
        assert str(site.database) in line["reason"]

    def test_records_waiting_for_a_sink_are_not_lost(self, site: Site) -> None:
        with receiving() as receiver:
            receiver.respond(503)
            site.start(sinks=f'[sinks.hook]\ntype = "webhook"\nurl = "{receiver.url}"\nbatch_age = "50ms"\n')
            until(lambda: receiver.rejected)
            code, seconds = site.stop(signal.SIGTERM)
        assert code == 0
        assert seconds < PROMPT_SECONDS
        (line,) = (event for event in site.collector.events() if "stay in the outbox" in event["message"])
        assert (line["level"], line["sink"], line["records"]) == ("info", "hook", 4)
        assert site.errors() == []


def plugged(command: Path) -> str:
    """Return a kubeconfig whose context `plugged` has a credential plugin."""
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(command), "interactiveMode": "Never"}
    return json.dumps(
        {
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": {"exec": plugin}}],
            "contexts": [{"name": "plugged", "context": {"cluster": "c", "user": "u"}}],
        }
    )


def connections(port: int) -> int:
    """Count the connections to a port that are open on the client's side."""
    fields = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(one[2].endswith(f":{port:04X}") and one[3] == "01" for one in fields)


# A file system whose server is gone: a process that opens the file blocks in the kernel, where no signal reaches it.
HANGING_FILES = """
import os, threading, pathlib
hanging = os.environ.get("HANGING_FILE")
if hanging:
    def guard(real):
        def call(path, *args, **kwargs):
            if str(path).endswith("/" + hanging):
                pathlib.Path(__file__).with_name("hangs").touch()
                threading.Event().wait()
            return real(path, *args, **kwargs)
        return call
    import io
    os.open, os.stat, io.open = guard(os.open), guard(os.stat), guard(io.open)
"""

HANGING_PROCESS = """
import sys, threading, time
from collector.stop import ProcessStop
stop = ProcessStop(seconds=1.0)
stop.install(hangup=True)
stop.report = lambda: [sys.stderr.write("x" * 10000) for _ in range(100)]
stop.listen(lambda: None)
threading.Thread(target=threading.Event().wait).start()  # not even a daemon
print("ready", flush=True)
threading.Event().wait()
"""
