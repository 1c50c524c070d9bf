"""A real pgbouncer before the tests' PostgreSQL."""

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.processes import Process, free_ports
from tests.support.waiting import until

__all__ = ["pgbouncer"]

ACCOUNT = "nobody"  # for root, as whom it does not run


@contextlib.contextmanager
def pgbouncer(url: str, *, pool_mode: str, pool_size: int = 3) -> Iterator[str]:
    """Run it before the database of a URL, and yield the URL that leads through it; skips where it is not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer on PATH: install Debian's package pgbouncer")
    server, (port,) = urlsplit(url), free_ports(1)
    with tempfile.TemporaryDirectory(prefix="gpuid-pgbouncer-", dir="/tmp") as name:
        folder = Path(name)
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host={server.hostname} port={server.port} user={server.username}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = {pool_mode}\ndefault_pool_size = {pool_size}\n"
        )
        command = [program, str(config)]
        if os.geteuid() == 0:
            shutil.chown(folder, ACCOUNT)
            command[1:1] = ["--user", ACCOUNT]
        process = Process(command, folder / "log")
        process.start()
        try:
            until(lambda: _listens(port) or not process.running)
            assert process.running, process.tail()
            yield url.replace(f":{server.port}/", f":{port}/")
        finally:
            process.stop(signal.SIGKILL)


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
