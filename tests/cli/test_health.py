"""`gpuid health`."""

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from collector.cli import gpuid

Serving = Callable[..., AbstractContextManager[str]]


def test_a_collector_that_answers_is_exit_0(serving: Serving):
    with serving() as url:
        result = CliRunner().invoke(gpuid, ["health", "--url", url + "/"])
    assert (result.exit_code, result.output) == (0, f"{url}: ok\n")


def test_the_collector_is_found_by_its_configuration(serving: Serving, tmp_path: Path):
    config = tmp_path / "gpuid.toml"
    with serving() as url:
        config.write_text(f'[server]\nlisten = "0.0.0.0:{urlsplit(url).port}"\n[[clusters]]\ncontext = "x"\n')
        result = CliRunner().invoke(gpuid, ["health", "-c", str(config)])
    assert (result.exit_code, result.output) == (0, f"{url}: ok\n")


def test_the_configured_certificate_is_trusted_without_credentials(
    serving: Serving, tmp_path: Path, certificate: tuple[Path, Path]
):
    cert, key = certificate
    (tmp_path / "token").write_text("secret")
    settings = {"cert_file": cert, "key_file": key, "bearer_token_file": tmp_path / "token"}
    with serving(**settings) as url:
        config = tmp_path / "gpuid.toml"
        lines = [f'{name} = "{path}"' for name, path in settings.items()]
        config.write_text(
            "\n".join(["[server]", f'listen = ":{urlsplit(url).port}"', *lines, "[[clusters]]", 'context = "x"'])
        )
        result = CliRunner().invoke(gpuid, ["health", "-c", str(config)])
        assert (result.exit_code, result.output) == (0, f"{url}: ok\n")
        stranger = CliRunner().invoke(gpuid, ["health", "--url", url])
        assert (stranger.exit_code, stranger.output) == (1, f"gpuid: {url}: TLS: self-signed certificate\n")


def test_no_collector_is_one_line_and_exit_1():
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = CliRunner().invoke(gpuid, ["health", "--url", url])
    assert (result.exit_code, result.output) == (1, f"gpuid: {url}: connection refused\n")


def test_a_collector_that_hangs_times_out():
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        result = CliRunner().invoke(gpuid, ["health", "--url", url, "--timeout", "100ms"])
    assert (result.exit_code, result.output) == (1, f"gpuid: {url}: no answer within 0.1 s\n")


def test_a_status_other_than_200_is_exit_1(serving: Serving):
    with serving() as url:
        result = CliRunner().invoke(gpuid, ["health", "--url", f"{url}/elsewhere"])
    assert (result.exit_code, result.output) == (1, f"gpuid: {url}/elsewhere: /healthz responds with 404\n")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x"])
def test_an_invalid_url_is_exit_2(url: str):
    result = CliRunner().invoke(gpuid, ["health", "--url", url])
    assert result.exit_code == 2
    assert result.stderr == f'gpuid: --url: expected http://HOST:PORT or https://HOST:PORT, got "{url}"\n'
