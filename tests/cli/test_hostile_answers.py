"""A server that answers the command line with whatever it likes."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid
from tests.support.http import served

ODD = "a\x1b[31m\x7f\x9b2J\u2028\u202e\u2066\u200b\rz"
ROW = {
    "cluster": f"=1+{ODD}",
    "node": f"+{ODD}",
    "serial": f"-{ODD}",
    "uuid": f"@{ODD}",
    "model": f"\t={ODD}",
    "machine": f"\r={ODD}",
    "chassis": ODD,
    "minor_number": -1,
    "mig": True,
    "since": "2026-01-01T00:00:00.000Z",
    "confirmed_at": "2026-01-01T00:00:00.000Z",
    "last_known": {"serial": ODD, ODD: ODD},
    "degraded": [ODD],
    "level": ODD,
    "health": {ODD: ODD},
    "mark": {"kind": ODD, "note": ODD, "ticket": ODD, "set_by": ODD},
}
CLUSTER = {"cluster": ODD, "state": ODD, "up": False, "message": ODD, "nodes": 1, "nodes_read": 1, "gpus": 1}
CHANGES = {"serial": {"before": ODD, "after": [ODD]}, ODD: {"before": ODD}}
CHANGE = {"time": ODD, "event": ODD, "cluster": ODD, "node": ODD, "serial": ODD, "uuid": ODD, "id": 1} | {
    "changes": CHANGES,
    "last_known": {"serial": ODD},
    "altered": [{"time": ODD, "changes": CHANGES}],
    "health_changes": [{"time": ODD, "changes": CHANGES}],
    "degraded": [ODD],
    "level": "replace",
    "mark": {"kind": ODD, "note": ODD, "ticket": ODD, "set_by": ODD},
}
MATCH = {"id": ODD, "kind": "serial", "state": ODD, "note": ODD, "module": ODD, **ROW, "ticket": ODD}


def looked_up(match: Mapping[str, Any]) -> dict[str, Any]:
    result = {"id": ODD, "found": True, "kind": ODD, "total": 2, "matches": [match], "note": ODD}
    missed = {"id": ODD, "found": False, "kind": None, "total": 0, "matches": [], "note": ODD}
    return {"results": [result, missed], "found": 1, "not_found": 1, "searched": {"history": True, "text": ODD}}


def run(*args: str, **options: Any) -> Result:
    return CliRunner().invoke(gpuid, args, **options)


@pytest.fixture
def url() -> Iterator[str]:
    """A server whose every value is hostile."""
    rows: dict[str, Any] = {"gpus": [ROW], "clusters": [CLUSTER], "changes": [CHANGE], "placements": [CHANGE]}
    body = json.dumps(rows | looked_up(MATCH) | {"total": 1, "next": None}).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        yield f"http://{address}"


def printable(text: str) -> bool:
    return text.replace("\n", "").isprintable()


@pytest.mark.parametrize("output", ["table", "wide", "json", "csv"])
def test_ls_prints_only_printable_text(url: str, output: str) -> None:
    result = run("ls", "--url", url, "-o", output)
    assert (result.exit_code, result.stderr) == (0, "")
    assert printable(result.stdout)


@pytest.mark.parametrize(
    "command",
    [("where", "x"), ("history", "n"), ("diff",), ("where", "x", "--json"), ("diff", "--json"), ("top",)],
)
def test_every_command_prints_only_printable_text(url: str, command: tuple[str, ...]) -> None:
    result = run(*command, "--url", url)
    assert result.exit_code == 0, result.stderr
    assert printable(result.stdout)


@pytest.mark.parametrize("value", [7, "x", [], [7], {"serial": 7}, [{"changes": 7}], [[]], True])
@pytest.mark.parametrize(
    "command",
    [("ls",), ("ls", "--degraded"), ("ls", "-o", "csv"), ("where", "x"), ("history", "n"), ("diff",)],
)
def test_a_change_may_hold_any_value(command: tuple[str, ...], value: object) -> None:
    odd = {"changes": value, "last_known": value, "altered": value, "health_changes": value}
    odd |= {"degraded": value, "level": value, "health": value, "mark": value}
    rows = {"gpus": [ROW | odd], "changes": [CHANGE | odd], "placements": [CHANGE | odd]}
    body = json.dumps(rows | looked_up(MATCH | odd) | {"total": 1, "next": None}).encode()
    with served(lambda _headers, _body: (200, body), "application/json") as address:
        result = run(*command, "--url", f"http://{address}")
    assert result.exit_code == 0, result.stderr


def test_json_keeps_every_character(url: str) -> None:
    (gpu,) = json.loads(run("ls", "--url", url, "-o", "json").stdout)
    assert gpu == ROW


@pytest.mark.parametrize("command", [("ls", "-o", "csv"), ("export", "-o", "csv")])
def test_csv_contains_no_formula(url: str, command: tuple[str, ...]) -> None:
    result = run(*command, "--url", url)
    (row,) = csv.DictReader(io.StringIO(result.stdout))
    assert row["cluster"] == "'=1+a[31m2J z"
    assert (row["node"], row["uuid"]) == ("'+a[31m2J z", "'@a[31m2J z")
    assert (row["model"], row["machine"]) == ("'=a[31m2J z", "'=a[31m2J z")
    assert row["chassis"] == "a[31m2J z"
    assert printable(result.stdout)
    if "minor_number" in row:
        assert (row["minor_number"], row["mig"]) == ("-1", "true"), "a number is no formula"


def test_exported_lines_escape_unprintable_characters(url: str) -> None:
    result = run("export", "--format", "jsonl", "--url", url)
    assert printable(result.stdout)
    assert json.loads(result.stdout)["chassis"] == ODD


BODIES = {
    "not UTF-8": b'{"next": null, "total": 1, "gpus": [{"\xff": "\xff"}]}',
    "Latin-1": '{"detail": "é"}'.encode("latin-1"),
    "deep": b'{"gpus": ' + b"[" * 100_000,
    "deep and unread": b'{"next": null, "total": 1, "x": ' + b'{"x":' * 100_000,
    "a large number": b'{"total": ' + b"9" * 5000 + b"}",
    "other rows": b'{"next": null, "total": 1, "gpus": [{}], "clusters": [{}]}',
    "rows that are none": b'{"next": null, "total": 1, "gpus": [[]], "clusters": [7]}',
    "nothing": b"",
    "a half": b'{"next": null, "total": 1, "gpus": [',
}


@pytest.mark.parametrize("command", [("ls",), ("ls", "-o", "csv"), ("export", "-o", "csv"), ("top",)])
@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("body", BODIES)
def test_an_answer_from_another_server_is_one_line(command: tuple[str, ...], status: int, body: str) -> None:
    with served(lambda _headers, _body: (status, BODIES[body]), "application/json") as address:
        result = run(*command, "--url", f"http://{address}")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"gpuid: http://{address}: ")
    assert result.stderr.count("\n") == 1
    assert printable(result.stderr)


def test_an_echoed_token_is_not_printed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2-bearer-token")

    def echo(headers: Mapping[str, str], _body: bytes) -> tuple[int, bytes]:
        return 500, json.dumps({"detail": f"\x1b[31myou sent {headers['Authorization']}"}).encode()

    with served(echo) as address:
        result = run("ls", "--url", f"http://{address}", "--token-file", str(tmp_path / "token"))
    assert result.stderr == f"gpuid: http://{address}: you sent Bearer ***\n"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("command", "path"),
    [(("ls",), "/x"), (("health",), "/x"), (("top",), "//elsewhere.test/x"), (("ls",), "http://elsewhere.test:x")],
)
def test_a_redirect_is_not_followed(
    redirecting: Callable[[int, str], Any], status: int, command: tuple[str, ...], path: str
) -> None:
    with served(lambda _headers, _body: pytest.fail("the canary was asked")) as canary:
        target = path if path != "/x" else f"http://u:hunter2@{canary}/x?token=hunter2"
        with redirecting(status, target) as (address, asked):
            result = run(*command, "--url", f"http://{address}")
    assert result.exit_code == (1 if command == ("health",) else 2)
    host = canary if path == "/x" else urlsplit(path).netloc
    assert result.stderr == (
        f"gpuid: http://{address}: redirects ({status}) to {host}; set --url to the final address\n"
    )
    assert len(asked) == 1


@pytest.fixture
def redirecting() -> Callable[[int, str], Any]:
    """Serve a redirect with this status to this location, and note who asks."""

    @contextmanager
    def run(status: int, location: str) -> Iterator[tuple[str, list[str]]]:
        asked: list[str] = []

        def answer(headers: Mapping[str, str], _body: bytes) -> tuple[int, bytes]:
            asked.append(headers["Host"])
            return status, b""

        with served(answer, headers={"Location": location}) as address:
            yield address, asked

    return run


@pytest.mark.parametrize(
    ("url", "environment", "text"),
    [
        ("http://\udcff/", {}, "--url: Invalid IDNA hostname: "),
        ("http://x/", {"HTTP_PROXY": "socks9://x"}, "invalid proxy in HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY"),
        ("http://x/", {"NO_PROXY": "fd00::/8"}, "invalid proxy in HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or NO_PROXY"),
    ],
)
def test_an_unusable_url_is_one_line(url: str, environment: dict[str, str], text: str) -> None:
    result = run("ls", "--url", url, env=environment)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith(f"gpuid: {text}")


def test_arguments_that_are_not_utf8_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpuid", "ls", "--node", "\udcff"])
    result = run("ls", "--url", "http://127.0.0.1:1", "--node", "\udcff")
    assert (result.exit_code, result.stderr) == (2, "gpuid: expected arguments in UTF-8\n")
