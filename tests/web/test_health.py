"""When the collector says that it lives and that it is ready."""

import httpx
import pytest

from collector.model import ClusterState

pytestmark = pytest.mark.anyio


async def test_it_lives_when_it_answers(client: httpx.AsyncClient) -> None:
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


async def test_once_ready_it_stays_so_when_a_cluster_is_added(site, serving) -> None:
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
