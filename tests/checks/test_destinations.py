"""The checks of the store and of sinks; what each of them proves is tested where it is implemented."""

from pathlib import Path

import pytest

from collector.checks.check import run_checks
from collector.checks.finding import Finding, Subject
from collector.checks.sinks import SinkCheck
from collector.checks.stores import StoreCheck
from collector.config.sinks import StdoutSettings, WebhookSettings
from collector.store import StoreSettings

pytestmark = pytest.mark.anyio


async def test_a_store_reports_its_engine_and_state(tmp_path: Path):
    (finding,) = await run_checks([StoreCheck(StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db"))], 10)
    assert (finding.subject, finding.name, finding.type, finding.ok) == (Subject.STORE, "store", "sqlite", True)
    assert finding.summary
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240  a folder of this test


async def test_a_store_that_cannot_be_used_is_a_problem(tmp_path: Path):
    (finding,) = await run_checks([StoreCheck(StoreSettings(url=f"sqlite://{tmp_path}/absent/gpuid.db"))], 10)
    assert not finding.ok
    assert f"{tmp_path}/absent" in finding.text


async def test_postgresql_is_recognised_by_its_url():
    check = StoreCheck(StoreSettings(url="postgresql://127.0.0.1:1/gpuid"))
    assert check.finding.type == "postgresql"


async def test_a_sink_reports_its_type_and_state():
    (finding,) = await run_checks([SinkCheck("log", StdoutSettings())], 10)
    assert finding == Finding(subject=Subject.SINK, name="log", type="stdout", summary=finding.summary)
    assert finding.summary


async def test_a_sink_that_cannot_be_reached_is_a_problem():
    check = SinkCheck("hook", WebhookSettings(url="http://127.0.0.1:1/secret-path"))
    (finding,) = await run_checks([check], 10)
    assert (finding.name, finding.type, finding.ok) == ("hook", "webhook", False)
    assert "http://127.0.0.1:1" in finding.text
    assert "secret-path" not in finding.text
