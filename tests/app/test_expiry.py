"""When the credentials of sinks and the collector's own certificate expire, according to its metrics."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from collector.app.expiry import SinkExpiry
from collector.config import parse
from collector.exposition import Metrics
from collector.tls import Validity, validity
from tests.support.kubernetes import Authority
from tests.support.own_text import own_text
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio

CLUSTER = '[[clusters]]\ncontext = "a"\n[store]\n'
ENDS = "gpuid_sink_credential_expiry_timestamp_seconds"
LIFE = "gpuid_sink_credential_lifetime_seconds"


def sinks(text: str, folder: Path) -> Any:
    return parse(CLUSTER + text, folder / "gpuid.toml").sinks


def published(metrics: Metrics, name: str) -> dict[str, float]:
    text = own_text(metrics)
    lines = [line.removeprefix(f'{name}{{sink="') for line in text.splitlines() if line.startswith(f"{name}{{")]
    return {line.partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def token(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2ln"


async def test_the_earliest_expiry_of_each_sink_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.issue("a", days=(-1, 3))
    (tmp_path / "a.pem").write_text(pair.pem["chain"] + pair.pem["key"])
    monkeypatch.setenv("GPUID_TEST_TOKEN", token(exp=2e9, iat=1.5e9))
    monkeypatch.setenv("GPUID_TEST_ENDLESS", "s3cr3t")
    (tmp_path / "token").write_text(token(exp=1.9e9))
    hook = '[sinks.{}]\ntype = "webhook"\nurl = "https://127.0.0.1/"\n{}\n'
    text = (
        hook.format("cert", 'cert_file = "a.pem"')
        + hook.format("both", 'cert_file = "a.pem"\ntoken_env = "GPUID_TEST_TOKEN"')
        + hook.format("variable", 'token_env = "GPUID_TEST_TOKEN"')
        + hook.format("endless", 'token_env = "GPUID_TEST_ENDLESS"')
        + hook.format("file", 'token_file = "token"')
        + hook.format("gone", 'cert_file = "no.pem"')
        + '[sinks.db]\ntype = "postgres"\nurl = "postgresql://a@b/c"\ncert_file = "a.pem"\n'
        + '[sinks.log]\ntype = "stdout"\n[sinks.lake]\ntype = "s3"\nbucket = "gpu"\n'
    )
    certificate = validity((tmp_path / "a.pem").read_bytes())
    assert certificate is not None
    metrics = Metrics()
    watch = SinkExpiry(metrics, interval=0.02)
    watch.watch(sinks(text, tmp_path))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        expected = {"cert": certificate.ends, "both": certificate.ends, "db": certificate.ends, "variable": 2e9}
        await eventually(lambda: published(metrics, ENDS), expected)
        assert published(metrics, LIFE) == {
            name: 5e8 if name == "variable" else pytest.approx(4 * 86400, abs=86400) for name in expected
        }

        renewed = authority.issue("b", days=(-1, 9))
        (tmp_path / "new.pem").write_text(renewed.pem["chain"] + renewed.pem["key"])
        os.replace(tmp_path / "new.pem", tmp_path / "a.pem")  # noqa: PTH105  at once
        again = validity((tmp_path / "a.pem").read_bytes())
        assert again is not None
        await eventually(lambda: published(metrics, ENDS)["cert"], again.ends)

        watch.watch(sinks(hook.format("variable", 'token_env = "GPUID_TEST_TOKEN"'), tmp_path))
        await eventually(lambda: published(metrics, ENDS), {"variable": 2e9})
        tasks.cancel_scope.cancel()


def test_the_server_s_certificate_has_no_series_without_https() -> None:
    metrics = Metrics()
    metrics.server_certificate(None)
    assert "gpuid_server_certificate" not in own_text(metrics)
    for ends in (1.9e9, 2e9):
        metrics.server_certificate(Validity(1.8e9, ends))
    text = own_text(metrics)
    assert "\ngpuid_server_certificate_expiry_timestamp_seconds 2e+09\n" in text
    assert "\ngpuid_server_certificate_lifetime_seconds 2e+08\n" in text
