"""`gpuid run` where it cannot start: one line that names the file and the key, and exit code 2."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def refusal(gpuid: Run, tmp_path: Path) -> Callable[..., str]:
    """Return what the command says to a configuration, with FILE for the path of its file."""
    kubeconfig, config = tmp_path / "kubeconfig", tmp_path / "gpuid.toml"
    kubeconfig.write_text(
        '{"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],'
        ' "contexts": [{"name": "prod", "context": {"cluster": "c"}}]}'
    )

    def run(text: str, *options: str, **env: str) -> str:
        config.write_text(f'[[clusters]]\ncontext = "prod"\nkubeconfig = "{kubeconfig}"\n{text}')
        result = gpuid("run", "-c", config, "--log-level", "error", *options, env=env)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        return result.stderr.removeprefix("gpuid: ").rstrip("\n").replace(str(config), "FILE")

    return run


@pytest.fixture
def taken() -> Iterator[str]:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_taken_port_is_refused(refusal: Callable[..., str], taken: str):
    assert refusal(f'[server]\nlisten = "{taken}"\n') == (
        f"FILE: server.listen: cannot listen on {taken}: the address is already in use"
    )


def test_a_missing_certificate_is_refused(refusal: Callable[..., str], tmp_path: Path):
    assert refusal('[server]\nlisten = "127.0.0.1:0"\ncert_file = "no.crt"\nkey_file = "no.key"\n') == (
        f"FILE: server.cert_file: cannot use {tmp_path}/no.crt with its key: no such file or directory"
    )


def test_a_missing_token_file_is_refused(refusal: Callable[..., str], tmp_path: Path):
    assert refusal('[server]\nlisten = "127.0.0.1:0"\nbearer_token_file = "token"\n') == (
        f"FILE: server.bearer_token_file: cannot read {tmp_path}/token: no such file or directory"
    )


def test_a_store_in_a_missing_folder_is_refused(refusal: Callable[..., str], tmp_path: Path):
    assert refusal(f'[store]\nurl = "sqlite://{tmp_path}/vra/gpuid.db"\n') == (
        f"FILE: store {tmp_path}/vra/gpuid.db: the directory {tmp_path}/vra does not exist; create it or fix store.url"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--shard", "0"), "--shard: expected --total-shards as well, which says how many there are"),
        (("--total-shards", "2"), "--total-shards: expected --shard as well, which says which of them this one is"),
        (("--shard", "2", "--total-shards", "2"), "--shard: expected one of shards 0 to 1, got 2"),
        (("--shard", "1", "--total-shards", "1"), "--shard: expected shard 0, the only one, got 1"),
        (("--shard", "-1", "--total-shards", "2"), '--shard: expected a number from 0, or auto, got "-1"'),
        (("--shard", "one", "--total-shards", "2"), '--shard: expected a number from 0, or auto, got "one"'),
        (
            ("--shard", "0", "--total-shards", "0"),
            "Invalid value for '--total-shards': 0 is not in the range 1<=x<=1000",
        ),
    ],
)
def test_invalid_shards_are_refused(refusal: Callable[..., str], options: tuple[str, ...], message: str):
    assert refusal("", *options) == f"run: {message}; see `gpuid run --help`"


def test_an_invalid_shard_in_the_environment_is_refused(refusal: Callable[..., str]):
    assert refusal("", GPUID_SHARD="3", GPUID_TOTAL_SHARDS="3").startswith(
        "run: --shard: expected one of shards 0 to 2"
    )


def test_a_host_name_without_an_ordinal_is_refused(refusal: Callable[..., str]):
    assert refusal("", "--shard", "auto", "--total-shards", "3").startswith(
        "run: --shard: expected a host name that ends in an ordinal"
    )


def test_shards_without_a_store_are_refused(refusal: Callable[..., str]):
    assert refusal("", "--shard", "0", "--total-shards", "2") == (
        "FILE: store: expected a PostgreSQL store, which all shards share; see [store] and --total-shards"
    )


def test_shards_with_an_sqlite_file_are_refused(refusal: Callable[..., str], tmp_path: Path):
    store = f'[store]\nurl = "sqlite://{tmp_path}/gpuid.db"\n'
    assert refusal(store, "--shard", "0", "--total-shards", "2") == (
        "FILE: store.url: expected a postgresql:// URL, which all shards share, got an SQLite file"
    )
