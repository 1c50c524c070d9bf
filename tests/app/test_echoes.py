"""`gpuid run` on API servers that repeat its credentials: nobody who reads what it says ever sees one."""

import base64
import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from tests.support.http import Answer, served
from tests.support.processes import CollectorProcess
from tests.support.waiting import until

TOKEN = "hunter2-Zx9_opaque.token-with.parts-hunter2"
CONTROL = "\x1b[31m\x7f\x9b\u2028\u202e\r\n"
MESSAGES: dict[str, Callable[[str], str]] = {
    "plain": lambda header: f"you sent {header}",
    "encoded": lambda header: base64.b64encode(f"x{header}".encode()).decode(),
    "cut": lambda header: "x" * 280 + header,
}


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[CollectorProcess]:
    """A collector that has not been started."""
    collector = CollectorProcess(tmp_path)
    yield collector
    collector.stop()


def kubeconfig(path: Path, server: str) -> Path:
    """Write a kubeconfig with the context of the file's name."""
    name = path.name
    document = {
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": {"token": TOKEN}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_tokens_and_control_characters_never_leave_the_collector(collector: CollectorProcess, tmp_path: Path) -> None:
    def echoes(name: str) -> Answer:
        def answer(headers: Mapping[str, str], _body: bytes) -> tuple[int, bytes]:
            message = CONTROL + MESSAGES[name](headers["Authorization"])
            return 403, json.dumps({"kind": "Status", "message": message, "code": 403}).encode()

        return answer

    with clusters({name: echoes(name) for name in MESSAGES}, tmp_path) as contexts:
        collector.configure(contexts)
        collector.start()
        until(lambda: collector.logged("cluster down", state="forbidden"), len(MESSAGES))
        said = {path: collector.text(path) for path in ("/api/v1/clusters", "/readyz?verbose", "/", "/clusters/plain")}
        collector.stop()
    said["log"] = collector.log.read_text()
    pieces = {TOKEN[at : at + 9] for at in range(len(TOKEN) - 9)}
    for where, text in said.items():
        assert "forbidden" in text, where
        assert not any(piece in text for piece in pieces), where
        assert text.replace("\n", "").isprintable(), where
    for cluster in json.loads(said["/api/v1/clusters"])["clusters"]:
        assert cluster["message"].isprintable()
        assert "***" in cluster["message"]


def test_an_undecodable_answer_does_not_stop_a_task(collector: CollectorProcess, tmp_path: Path) -> None:
    bodies = {
        "latin": '{"kind": "Status", "message": "é"}'.encode("latin-1"),
        "deep": b'{"message": ' + b"[" * 100_000,
        "large": b'{"details": {"retryAfterSeconds": ' + b"9" * 5000 + b"}}",
    }
    answers = {name: functools.partial(_answer, body) for name, body in bodies.items()}
    with clusters(answers, tmp_path) as contexts:
        collector.configure(contexts)
        collector.start()
        until(lambda: collector.logged("cluster down", state="server_error"), len(bodies))
        found = json.loads(collector.text("/api/v1/clusters"))["clusters"]
    assert all("HTTP status 503" in cluster["message"] for cluster in found)
    assert collector.logged("crashed") == 0


def _answer(body: bytes, _headers: Mapping[str, str], _body: bytes) -> tuple[int, bytes]:
    return 503, body


@contextlib.contextmanager
def clusters(answers: Mapping[str, Answer], folder: Path) -> Iterator[dict[str, Path]]:
    """Serve a cluster for each answer; yields the kubeconfig of each by its context."""
    with contextlib.ExitStack() as servers:
        yield {
            name: kubeconfig(folder / name, f"http://{servers.enter_context(served(answer, 'application/json'))}")
            for name, answer in answers.items()
        }
