"""How a running command is stopped: from its first instruction on, on every signal, whatever it is doing."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from collector.cli.signals import stop_signals
from collector.stop import ProcessStop
from tests.support.processes import free_ports
from tests.support.waiting import until

MOMENTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.1, 1.5, 2.0, 3.0)  # seconds after it handles signals
AT_ONCE = 5  # commands that start at the same time: more would slow each other down


class TestWhileItRuns:
    @pytest.fixture
    def process(self) -> Iterator[ProcessStop]:
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        process = ProcessStop(end=lambda _code: None, seconds=0.01)  # it ends nothing, or pytest would be gone
        process.install(hangup=True)
        yield process
        for number, handler in before.items():
            signal.signal(number, handler)

    @pytest.mark.anyio
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    async def test_a_signal_before_the_wait_is_not_lost(self, process: ProcessStop, number: signal.Signals):
        with stop_signals(process=process) as stopped:
            os.kill(os.getpid(), number)
            await anyio.sleep(0.05)
            with anyio.fail_after(10):
                assert await stopped() is number

    @pytest.mark.anyio
    async def test_a_hangup_calls_and_does_not_stop(self, process: ProcessStop):
        calls: list[str] = []
        os.kill(os.getpid(), signal.SIGHUP)  # before anybody listens
        with (
            stop_signals(on_hangup=lambda: calls.append("hangup"), process=process) as stopped,
            anyio.fail_after(10),
        ):
            for number in (signal.SIGHUP, signal.SIGTERM):
                await anyio.sleep(0.05)
                os.kill(os.getpid(), number)
            assert await stopped() is signal.SIGTERM
        assert calls == ["hangup", "hangup"]


class Ended(NamedTuple):
    after: float  # seconds
    code: int
    errors: str


class TestWhileItStarts:
    """Each command gets signals at many moments of its start; they are given in parallel."""

    def test_run_ignores_a_hangup_and_sigterm_stops_it_cleanly(self, tmp_path: Path):
        self._check(tmp_path, self._run, MOMENTS, (signal.SIGHUP, signal.SIGTERM))

    def test_an_interrupt_stops_run_cleanly(self, tmp_path: Path):
        self._check(tmp_path, self._run, MOMENTS[::3], (signal.SIGINT,))

    def test_sigterm_stops_demo_cleanly(self, tmp_path: Path):
        self._check(tmp_path, self._demo, MOMENTS[1::2], (signal.SIGTERM,))

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
    def test_other_commands_keep_the_default_signal_handling(self, tmp_path: Path, number: signal.Signals, code: int):
        process = self._start(tmp_path, "ls", "--url", self._silent_url())
        connection, _ = self._listener.accept()
        with connection:
            process.send_signal(number)
            _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors.strip()) == (code, "")

    @pytest.fixture(autouse=True)
    def _silent(self) -> Iterator[None]:
        with socket.socket() as self._listener:  # it accepts connections, and never says a word
            self._listener.bind(("127.0.0.1", 0))
            self._listener.listen(64)
            self._listener.settimeout(60)
            yield

    def _silent_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _check(
        self,
        folder: Path,
        command: Callable[[Path, str], "subprocess.Popen[str]"],
        moments: tuple[float, ...],
        signals: tuple[signal.Signals, ...],
    ) -> None:
        ended: list[Ended] = []
        for start in range(0, len(moments), AT_ONCE):
            part = moments[start : start + AT_ONCE]
            processes = [(after, command(folder, f"{after}")) for after in part]
            handled = dict.fromkeys(part, 0.0)
            for after, process in processes:
                until(lambda: _handles_sigterm(process), seconds=30)  # noqa: B023  called at once
                handled[after] = time.monotonic()
            for after, process in processes:
                time.sleep(max(0.0, handled[after] + after - time.monotonic()))
                for number in signals:
                    process.send_signal(number)
            for after, process in processes:
                _, errors = process.communicate(timeout=60)
                ended.append(Ended(after, process.returncode, errors))
        assert [one for one in ended if one.code != 0 or "Traceback" in one.errors] == []

    def _run(self, folder: Path, name: str) -> "subprocess.Popen[str]":
        kubeconfig, config = folder / f"{name}.kubeconfig", folder / f"{name}.toml"
        kubeconfig.write_text(
            f'{{"clusters": [{{"name": "c", "cluster": {{"server": "{self._silent_url()}"}}}}],'
            ' "contexts": [{"name": "prod", "context": {"cluster": "c"}}]}'
        )
        config.write_text(
            f'[server]\nlisten = "127.0.0.1:{free_ports(1)[0]}"\n[store]\nurl = "sqlite://{folder}/{name}.db"\n'
            f'[[clusters]]\ncontext = "prod"\nkubeconfig = "{kubeconfig}"\n'
        )
        return self._start(folder, "run", "-c", str(config), "--log-level", "error")

    def _demo(self, folder: Path, _name: str) -> "subprocess.Popen[str]":
        return self._start(folder, "demo", "--nodes", "10", "--listen", "127.0.0.1:0")

    def _start(self, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "collector", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": str(folder)},
        )


def _handles_sigterm(process: "subprocess.Popen[str]") -> bool:
    """Return whether a process has got to its first line: before that, nothing can handle a signal."""
    found = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)
