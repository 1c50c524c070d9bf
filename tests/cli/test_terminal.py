"""Live output on a terminal: the progress of the first inventory, and `gpuid top`."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner

from collector.cli import gpuid
from collector.config import load
from collector.simulator import Simulator
from tests.support.http import served
from tests.support.processes import free_ports
from tests.support.terminal import Terminal

PLAIN = {"NO_COLOR": "1"}


@pytest.fixture
def move(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A simulated cluster with its configuration; a call moves a GPU and returns which."""
    simulator = Simulator(clusters=1, nodes=3, gpus=4, latency=0.5)
    (port,) = free_ports(1)
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(simulator):
        (tmp_path / "gpuid.toml").write_text(
            f'[server]\nlisten = "127.0.0.1:{port}"\n[store]\nurl = "sqlite://{tmp_path}/gpuid.db"\n'
            f'[[clusters]]\ncontext = "sim-0"\nkubeconfig = "{simulator.kubeconfig}"\n'
        )
        yield lambda: portal.call(simulator.clusters["sim-0"].move_gpu).message


def test_the_first_inventory_has_a_bar_below_whole_log_lines(tmp_path: Path, move: Callable[[], str]):
    with Terminal("run", "-c", tmp_path / "gpuid.toml", env=PLAIN, columns=60) as terminal:
        terminal.until("/3 ")
        text = terminal.until("3/3 ")
        assert "reading nodes" in text
        (line,) = [line for line in text.splitlines() if "serving on " in line]
        assert line.endswith("config=" + str(tmp_path / "gpuid.toml"))
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 0


def test_a_watched_list_is_redrawn_until_it_is_interrupted(
    serving: Callable[..., AbstractContextManager[str]], alter: Callable[..., None]
):
    with serving() as url, Terminal("ls", "--url", url, "--watch=100ms", env=PLAIN, columns=60) as watched:
        watched.until("prod-b")
        assert "NVIDIA B300" not in watched.text
        alter("prod-b", lambda gpu: msgspec.structs.replace(gpu, model="NVIDIA B300"))
        watched.until("NVIDIA B300")
        watched.process.send_signal(signal.SIGINT)
        assert watched.end() == 0


def test_top_shows_clusters_and_the_latest_changes(tmp_path: Path, move: Callable[[], str]):
    config = tmp_path / "gpuid.toml"
    with Terminal("run", "-c", config, env=PLAIN) as collector:
        collector.until("serving on ")
        collector.until("3/3 ")
        with Terminal("top", "-c", config, "--interval", "100ms", env=PLAIN) as top:
            top.until("1 of 1 cluster up, 3 of 3 nodes read, 12 GPUs")
            assert "moved" not in top.text
            uuid = next(word for word in move().split() if word.startswith("GPU-"))
            text = top.until("moved")
            assert uuid in text[text.rindex("moved") :] or uuid in top.until(uuid)
            collector.process.send_signal(signal.SIGTERM)
            collector.end()
            top.until("connection refused")
            top.process.send_signal(signal.SIGINT)
            assert top.end() == 0


def test_top_cuts_rows_on_a_narrow_terminal(tmp_path: Path, move: Callable[[], str]):
    with Terminal("run", "-c", tmp_path / "gpuid.toml", env=PLAIN) as collector:
        collector.until("3/3 ")
        with Terminal("top", "-c", tmp_path / "gpuid.toml", "--interval", "100ms", env=PLAIN, columns=40) as top:
            move()
            top.until("moved")
            rows = [line for line in top.text.splitlines() if "moved" in line]
            assert len(rows[0]) <= 40
            assert rows[0].split()[1] == "moved"


def test_top_without_a_store_shows_only_clusters(serving: Callable[..., AbstractContextManager[str]]):
    with serving() as url, Terminal("top", "--url", url, env=PLAIN) as top:
        top.until("prod-b")
        os.kill(top.process.pid, signal.SIGINT)
        assert top.end() == 0


def test_top_says_what_was_altered(serving: Callable[..., AbstractContextManager[str]], altered_config: Path):
    with (
        serving(store=load(altered_config).store) as url,
        Terminal("top", "--url", url, env=PLAIN) as top,
    ):
        top.until("serial S-1 → not reported, MIG off → on")
        os.kill(top.process.pid, signal.SIGINT)
        assert top.end() == 0


def test_top_scrolls_and_quits_with_q():
    row = {"up": True, "nodes": 1, "nodes_read": 1, "gpus": 8}
    body = json.dumps(
        {"total": 99, "next": None, "clusters": [row | {"cluster": f"zone-{number}"} for number in range(99)]}
    ).encode()
    with (
        served(lambda _headers, _body: (200, body), "application/json") as address,
        Terminal("top", "--url", f"http://{address}", env=PLAIN, columns=80, keys=True) as top,
    ):
        top.until("of 99 clusters")
        assert "zone-98" not in top.text
        top.press("\x1b[F")
        top.until("zone-98")
        top.press("q")
        assert top.end() == 0


def test_top_without_a_terminal_prints_clusters_once(serving: Callable[..., AbstractContextManager[str]]):
    with serving(down=["prod-b"]) as url:
        result = CliRunner().invoke(gpuid, ["top", "--url", url])
    assert (result.exit_code, result.stderr) == (0, "")
    heading, *rows = result.stdout.splitlines()
    assert heading == "CLUSTER  STATE        NODES  UNREAD  GPUS  MISSING  LOST  DEGRADED"
    assert [row.split() for row in rows] == [
        ["prod-b", "unreachable", "1", "0", "2", "6", "0", "-"],
        ["prod-a", "up", "2", "0", "3", "13", "0", "-"],
    ]


def test_top_without_a_collector_is_exit_2():
    result = CliRunner().invoke(gpuid, ["top", "--url", "http://127.0.0.1:1"])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_where_and_diff_use_colours_on_a_terminal(history_config: Path):
    with Terminal("where", "100", "-c", history_config) as terminal:
        assert terminal.end() == 0
        assert "\x1b[32m-" in terminal.text  # no end: it is there now
    with Terminal("diff", "-c", history_config) as terminal:
        assert terminal.end() == 0
        assert "\x1b[33mmoved" in terminal.text


def test_a_collector_without_a_history_says_so(serving: Callable[..., AbstractContextManager[str]]):
    with serving() as url:
        result = CliRunner().invoke(gpuid, ["history", "n1", "--url", url])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"gpuid: {url}: this collector keeps no history: its configuration has no [store]\n"
