"""`gpuid run` where it cannot start: one line that names the file and the key, and exit code 2."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def refusal(gpuid: Run, tmp_path: Path) -> Callable[[str], str]:
    """Return what the command says to a configuration, with FILE for the path of its file."""
    kubeconfig, config = tmp_path / "kubeconfig", tmp_path / "gpuid.toml"
    kubeconfig.write_text(
        '{"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],'
        ' "contexts": [{"name": "prod", "context": {"cluster": "c"}}]}'
    )

    def run(text: str) -> str:
        config.write_text(f'[[clusters]]\ncontext = "prod"\nkubeconfig = "{kubeconfig}"\n{text}')
        result = gpuid("run", "-c", config, "--log-level", "error")
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        return result.stderr.removeprefix("gpuid: ").rstrip("\n").replace(str(config), "FILE")

    return run


@pytest.fixture
def taken() -> Iterator[str]:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_taken_port(refusal: Callable[[str], str], taken: str):
    assert refusal(f'[server]\nlisten = "{taken}"\n') == (
        f"FILE: server.listen: cannot listen on {taken}: the address is already in use"
    )


def test_an_absent_certificate(refusal: Callable[[str], str], tmp_path: Path):
    assert refusal('[server]\nlisten = "127.0.0.1:0"\ncert_file = "no.crt"\nkey_file = "no.key"\n') == (
        f"FILE: server.cert_file: cannot use {tmp_path}/no.crt with its key: no such file or directory"
    )


def test_an_absent_token_file(refusal: Callable[[str], str], tmp_path: Path):
    assert refusal('[server]\nlisten = "127.0.0.1:0"\nbearer_token_file = "token"\n') == (
        f"FILE: server.bearer_token_file: cannot read {tmp_path}/token: no such file or directory"
    )


def test_a_store_in_an_absent_folder(refusal: Callable[[str], str], tmp_path: Path):
    assert refusal(f'[store]\nurl = "sqlite://{tmp_path}/vra/gpuid.db"\n') == (
        f"FILE: store {tmp_path}/vra/gpuid.db: the directory {tmp_path}/vra does not exist; create it or fix store.url"
    )
