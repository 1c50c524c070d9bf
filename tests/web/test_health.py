"""When the collector says that it lives and that it is ready."""

from typing import Any

import httpx
import pytest

from collector.model import ClusterState
from collector.store import LeadStatus, StoreStatus

pytestmark = pytest.mark.anyio


async def test_it_is_live_when_it_answers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_it_is_ready_when_every_cluster_has_a_state(client: httpx.AsyncClient) -> None:
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


async def test_it_is_not_ready_while_a_cluster_is_starting(site, serving) -> None:
    site.cluster("prod-c", ClusterState.STARTING)
    async with serving(site) as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.text == (
        "[+]prod-a up\n"
        "[-]prod-b unreachable: https://10.0.0.1:6443: connection refused\n"
        "[-]prod-c starting\n"
        "not ready: 1 of 3 clusters are starting\n"
    )


async def test_verbose_lists_every_cluster(client: httpx.AsyncClient) -> None:
    answer = await client.get("/readyz?verbose")
    assert answer.text == "[+]prod-a up\n[-]prod-b unreachable: https://10.0.0.1:6443: connection refused\nok\n"


async def test_it_stays_ready_when_a_cluster_is_added(site, serving) -> None:
    async with serving(site) as client:
        assert (await client.get("/readyz")).status_code == 200
        site.cluster("prod-c", ClusterState.STARTING)
        assert (await client.get("/readyz")).status_code == 200
        assert "[-]prod-c starting\n" in (await client.get("/readyz?verbose")).text


async def test_details_require_authentication(site, serving, tmp_path) -> None:
    (tmp_path / "token").write_text("t")
    async with serving(site, bearer_token_file=tmp_path / "token") as client:
        assert (await client.get("/readyz?verbose")).text == "ok\n"
        admitted = await client.get("/readyz?verbose", headers={"Authorization": "Bearer t"})
        assert "prod-b unreachable" in admitted.text


@pytest.mark.parametrize(
    ("store", "lead", "lines"),
    [
        (StoreStatus(), None, []),
        (StoreStatus(), LeadStatus(), ["[+]store leader: this collector"]),
        (StoreStatus(), LeadStatus(leads=False, holder="gpuid-0 (pid 1)"), ["[+]store leader: gpuid-0 (pid 1)"]),
        (StoreStatus(), LeadStatus(leads=False, has_leader=False), ["[-]store no leader"]),
        (
            StoreStatus(up=False, message="store x: disk full"),
            LeadStatus(),
            ["[-]store down: store x: disk full", "[+]store leader: this collector"],
        ),
    ],
)
async def test_verbose_says_who_leads(site: Any, serving: Any, store: Any, lead: Any, lines: list[str]) -> None:
    site.collector.store_status, site.collector.lead_status = store, lead
    async with serving(site) as client:
        answer = (await client.get("/readyz?verbose")).text
    assert [line for line in answer.splitlines() if "]store" in line] == lines
