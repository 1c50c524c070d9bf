"""How a running command is stopped."""

import os
import signal

import anyio
import pytest

from collector.cli.signals import stop_signals

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_before_the_wait_is_not_lost(number: signal.Signals):
    with stop_signals() as stopped:
        os.kill(os.getpid(), number)
        await anyio.sleep(0.05)
        with anyio.fail_after(10):
            assert await stopped() is number


async def test_a_hangup_calls_and_does_not_stop():
    calls: list[str] = []
    with stop_signals(on_hangup=lambda: calls.append("hangup")) as stopped, anyio.fail_after(10):
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
            await anyio.sleep(0.05)
        assert await stopped() is signal.SIGTERM
    assert calls == ["hangup", "hangup"]
