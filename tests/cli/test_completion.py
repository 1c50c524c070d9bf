"""Completion of values in the shell."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from collector.cli import completion, gpuid
from collector.cli.bash import BashCompletion
from collector.views import suggestions

ARN = "arn:aws:eks:us-east-1:123456789012:cluster/gpu-prod"


@pytest.fixture
def url(serving: Callable[..., AbstractContextManager[str]]) -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder without a configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUID_CONFIG", raising=False)
    return tmp_path


def values(line: str) -> list[str]:
    """Return what the last word of a line, which may be empty, can become."""
    *words, incomplete = line.split(" ")
    return [item.value for item in ShellComplete(gpuid, {}, "gpuid", "X").get_completions(words, incomplete)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ls --cluster ", ["prod-a", "prod-b"]),
        ("ls --cluster prod-b --node ", ["n3"]),
        ("ls --node ", ["n1", "n2", "n3"]),
        ("ls --model ", ["NVIDIA H100", "NVIDIA GB200"]),
        ("ls 10", ["100", "102", "103"]),
        ("mark --as rma ", ["100", "102", "103", "900"]),
        ("nodes --cluster prod-a n", ["n1", "n2"]),
        ("clusters prod-", ["prod-a", "prod-b"]),
        ("history n", ["n1", "n2", "n3"]),
        ("status --cluster x", []),
        ("nodes --sort unr", ["unread_reason", "unread_since"]),
        ("ls -o ", ["table", "wide", "json", "csv"]),
    ],
)
def test_values_come_from_the_collector(url: str, here: Path, line: str, expected: list[str]):
    command, _, rest = line.partition(" ")
    assert values(f"{command} --url {url} {rest}") == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("check --cluster ", ["one", "two"]),
        ("grant o", ["one"]),
        ("ls --cluster t", ["two"]),
        ("outbox letters --sink ", ["lake"]),
        ("init --kubeconfig kubeconfig --context a", ["a-context"]),
    ],
)
def test_values_come_from_the_configuration(here: Path, line: str, expected: list[str]):
    (here / "gpuid.toml").write_text(
        '[[clusters]]\ncontext = "one"\n[[clusters]]\ncontext = "two"\n[store]\nurl = "sqlite:///x/gpuid.db"\n'
        '[server]\ntls_cert = "old-name"\ntls_key = "old-name"\n[sinks.lake]\ntype = "stdout"\n'
    )
    (here / "kubeconfig").write_text(
        '{"contexts": [{"name": "a-context", "context": {"cluster": "c", "user": "u"}}],'
        ' "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],'
        ' "users": [{"name": "u", "user": {"token": "t"}}]}'
    )
    assert values(line) == expected


@pytest.mark.parametrize("line", ["ls --cluster ", "ls --node ", "ls 10", "nodes ", "history n", "grant "])
def test_an_unreachable_collector_completes_nothing_silently(here: Path, line: str, capfd: pytest.CaptureFixture[str]):
    command, _, rest = line.partition(" ")
    url = "" if command == "grant" else " --url http://127.0.0.1:1"
    assert values(f"{command}{url} {rest}") == []
    (here / "gpuid.toml").write_text("[[clusters")
    assert values(line) == []
    assert capfd.readouterr() == ("", "")


def test_a_collector_that_hangs_is_not_waited_for(here: Path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as mute:
        started = time.monotonic()
        assert values(f"ls --url http://127.0.0.1:{mute.getsockname()[1]} --node ") == []
        assert time.monotonic() - started < 20


def test_it_knows_the_minimum_prefix_for_suggestions():
    assert (completion.MIN_NAME_LENGTH, completion.MIN_GPU_LENGTH) == (
        suggestions.MIN_NAME_LENGTH,
        suggestions.MIN_GPU_LENGTH,
    )


def test_bash_completes_a_name_with_colons(here: Path):
    (here / "gpuid.toml").write_text(f'[[clusters]]\ncontext = "{ARN}"\n[[clusters]]\ncontext = "two words"\n')
    (here / "gpuid").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m collector "$@"\n')
    (here / "gpuid").chmod(0o755)
    source = BashCompletion(gpuid, {}, "gpuid", "_GPUID_COMPLETE").source()

    def completed(line: str, words: str) -> list[str]:
        count = len(shlex.split(words))
        script = (
            f"{source}\nCOMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words});"
            f' COMP_CWORD={count - 1}; _gpuid_completion ./gpuid; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=here, check=True)
        assert done.stderr == ""
        return done.stdout.splitlines()

    assert completed("./gpuid check --cluster ", "./gpuid check --cluster ''") == [ARN, "'two words'"]
    for typed in ("'two ", "two\\ ", '"two '):  # the blank is part of the word
        words = f"./gpuid check --cluster {shlex.quote(typed)}"
        assert completed(f"./gpuid check --cluster {typed}", words) == ["'two words'"]
    typed = ARN.rpartition("/")[0]
    words = " ".join(
        shlex.quote(word) for word in ("./gpuid", "check", "--cluster", *typed.replace(":", " : ").split())
    )
    assert completed(f"./gpuid check --cluster {typed}", words) == ["cluster/gpu-prod"]
