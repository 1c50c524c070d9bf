"""The search."""

from typing import Any

import httpx
import msgspec
import pytest

from collector.marks import Mark, MarkKind
from collector.model import Gpu
from collector.store import Store

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("term", "target"),
    [
        ("100", "/gpus/GPU-a1"),
        ("GPU-a1", "/gpus/GPU-a1"),
        ("gpu-A1", "/gpus/GPU-a1"),
        (" 1 00 ", "/gpus/GPU-a1"),
        ("n2", "/clusters/prod-a/nodes/n2"),
        ("N2", "/clusters/prod-a/nodes/n2"),
        ("i-n3", "/clusters/prod-b/nodes/n3"),
        ("prod-a", "/clusters/prod-a"),
        ("c1", "/chassis/C1"),
    ],
)
async def test_one_exact_match_redirects_to_it(client: httpx.AsyncClient, term: str, target: str) -> None:
    answer = await client.get("/search", params={"q": term})
    assert (answer.status_code, answer.headers["Location"]) == (303, target)


@pytest.mark.parametrize("term", ["900", "GB200"])
async def test_several_matches_are_listed(client: httpx.AsyncClient, visit: Any, term: str) -> None:
    page = await visit(client, f"/search?q={term}")
    assert f"2 hits for “ {term} ”" in page.text
    assert {"/gpus/GPU-b1", "/gpus/GPU-b2"} <= set(page.links)


async def test_nodes_of_one_name_in_several_clusters_are_listed(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-b", "n1", Gpu(uuid="GPU-b9"))
    async with serving(site) as client:
        page = await visit(client, "/search?q=n1")
    assert "2 hits for “ n1 ”" in page.text
    assert {"/clusters/prod-a/nodes/n1", "/clusters/prod-b/nodes/n1"} <= set(page.links)


async def test_without_an_exact_match_part_of_a_number_matches(site: Any, serving: Any, visit: Any) -> None:
    for uuid in ("x", "y"):
        site.read("prod-a", f"n7{uuid}", Gpu(uuid=f"GPU-{uuid}", serial="1652923034028"))
    async with serving(site) as client:
        page = await visit(client, "/search?q=4028")
    assert "No exact match for “4028”; these contain it." in page.text
    assert "/gpus/GPU-x" in page.links


async def test_one_partial_match_redirects_to_it(client: httpx.AsyncClient) -> None:
    assert (await client.get("/search?q=PU-A1")).headers["Location"] == "/gpus/GPU-a1"


async def test_an_absent_gpu_is_found_by_a_part(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    gone = [Gpu(uuid=f"GPU-9e4{n}", serial=f"165292303402{n}", chassis="C1822") for n in "78"]
    site.read("prod-a", "n9", *gone)
    site.read("prod-a", "n9", time=1764000300.0)
    async with serving(site) as client:
        one = [await client.get("/search", params={"q": term}) for term in ("34027", "pu-9E47")]
        two = await visit(client, "/search?q=c182")
    assert [answer.headers["Location"] for answer in one] == ["/gpus/GPU-9e47", "/gpus/GPU-9e47"]
    assert "2 hits for “ c182 ” No exact match for “c182”; these contain it." in two.text
    assert two.text.count("was on n9 ( prod-a )") == 2


async def test_former_nodes_are_found_with_current_ones(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.cluster("prod-c")
    for cluster in ("prod-b", "prod-c"):
        site.read(cluster, "gpu-0006", Gpu(uuid=f"GPU-{cluster}"), machine=f"i-{cluster}-0ed")
    site.remove("prod-c", "gpu-0006", 1764000300.0)
    async with serving(site) as client:
        named = await visit(client, "/search?q=GPU-0006")
        part = await visit(client, "/search?q=-0006")
        machine = await client.get("/search?q=i-prod-c-0ED")
    for page in (named, part):
        assert "2 hits" in page.text
        assert "gpu-0006 gone prod-c – – machine i-prod-c-0ed 5 minutes ago 2025-11-24T16:05:00Z" in page.text
        assert {"/clusters/prod-b/nodes/gpu-0006", "/clusters/prod-c/nodes/gpu-0006"} <= set(page.links)
    assert machine.headers["Location"] == "/clusters/prod-c/nodes/gpu-0006"


async def test_matches_beyond_the_limit_are_counted(site: Any, serving: Any, visit: Any) -> None:
    for number in range(1002, 0, -1):
        site.read("prod-a", f"gpu-{number:04d}", Gpu(uuid=f"GPU-{number:04d}-1650"), Gpu(uuid=f"GPU-{number:04d}-1651"))
    async with serving(site) as client:
        both, last = await visit(client, "/search?q=gpu-"), await visit(client, "/search?q=gpu-&page=10")
    assert "3,011 hits for “ gpu- ”" in both.text
    assert "Showing the first 1,000 hits; enter more characters to narrow the search." in both.text
    nodes = [link for link in both.links if link.startswith("/clusters/prod-a/nodes/gpu-")]
    assert nodes[:2] == ["/clusters/prod-a/nodes/gpu-0001", "/clusters/prod-a/nodes/gpu-0001"]
    assert "1–100 of the first 1,000 hits" in both.text
    assert "901–1,000 of the first 1,000 hits" in last.text


async def test_past_matches_beyond_the_limit_are_mentioned(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n9", *(Gpu(uuid=f"GPU-x{number:04d}") for number in range(1001)))
    site.read("prod-a", "n9", time=1764000300.0)
    assert await kept.history_writer.flushed(60)
    async with serving(site) as client:
        text = (await visit(client, "/search?q=gpu-x")).text
    assert "More than 1,001 hits for “ gpu-x ”" in text
    assert "Showing the first 1,000 hits" in text


async def test_a_negative_answer_says_what_was_searched(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/search?q=x")
    assert page.status == 200
    assert "No results for “x” Not among the 5 GPUs on 3 nodes across 2 clusters currently known." in page.text
    assert "Partial matches need at least 4 characters." in page.text
    assert "A serial is the number on the sticker" in page.text
    assert "Add a [store] to its configuration to find former ones, too." in page.text


async def test_several_ids_are_answered_together(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/search?q=S%2FN:+100%0A999999,+GPU-a2+n3")
    assert "3 ids found, 1 not found" in page.text
    assert "100 present n1 ( prod-a )" in page.text
    assert "999999 not found" in page.text
    assert {"/gpus/GPU-a1", "/gpus/GPU-a2", "/clusters/prod-b/nodes/n3"} <= set(page.links)


async def test_too_many_ids_in_an_address_are_refused_in_one_line(client: httpx.AsyncClient) -> None:
    answer = await client.get("/search", params={"q": "1" * 501})
    assert (answer.status_code, answer.text.count("\n")) == (400, 1)
    assert "expected at most 500 characters, got 501" in answer.text


async def test_an_empty_query_says_what_can_be_searched(client: httpx.AsyncClient, visit: Any) -> None:
    assert "What are you looking for?" in (await visit(client, "/search?q=+")).text


async def test_a_gpu_that_is_only_in_the_history_is_found(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n2", time=1764000300.0)
    site.read("prod-b", "n3", time=1764000300.0)
    async with serving(site) as client:
        one = await client.get("/search?q=102")
        two = await visit(client, "/search?q=900")
    assert (one.status_code, one.headers["Location"]) == (303, "/gpus/GPU-a2")
    assert "2 hits" in two.text
    assert "900 not present was on n3 ( prod-b ) – chassis C1 NVIDIA GB200 GPU-b1 5 minutes ago" in two.text


async def test_with_a_failing_store_current_gpus_are_found(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.break_store()
    async with serving(site) as client:
        assert (await client.get("/search?q=100")).headers["Location"] == "/gpus/GPU-a1"
        page = await visit(client, "/search?q=102000")
    assert page.status == 200
    assert "The history could not be searched: store " in page.text


async def test_many_matches_come_in_parts(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "big", *(Gpu(uuid=f"GPU-{number:03d}", model="NVIDIA L4") for number in range(150)))
    async with serving(site) as client:
        page = await visit(client, "/search?q=l4&page=2")
    assert "150 hits for “ l4 ”" in page.text
    assert "101–150 of 150 hits" in page.text
    assert "/gpus/GPU-149" in page.links


async def test_a_part_number_is_found_reported_or_last_known(site: Any, serving: Any, visit: Any) -> None:
    gpus = [
        Gpu(uuid=f"GPU-p{n}", serial=f"P-{n}", board_part_number="699-2G548-0201-800", gpu_part_number="2941-886-A1")
        for n in range(2)
    ]
    site.read("prod-a", "n7", *gpus, time=1764000100.0)
    unsaid = msgspec.structs.replace(gpus[1], board_part_number=None, gpu_part_number=None)
    site.read("prod-a", "n7", gpus[0], unsaid, time=1764000200.0)
    async with serving(site) as client:
        for term in ("699-2G548-0201-800", "699-2g548-0201-800", "2941-886-A1", "2G548"):
            text = (await visit(client, f"/search?q={term}")).text
            assert "2 hits" in text
        for parameter in ("board_part_number=699-2G548-0201-800", "gpu_part_number=2941-886-A1"):
            answer = (await client.get(f"/api/v1/gpus?{parameter}")).json()
            assert [row["uuid"] for row in answer["gpus"]] == ["GPU-p0", "GPU-p1"]
            assert (await client.get(f"/api/v1/gpus?{parameter}&serial=P-1")).json()["total"] == 1
        assert (await client.get("/api/v1/gpus?board_part_number=no&serial=P-1")).json()["total"] == 0


async def test_a_mark_of_an_unseen_gpu_is_found(site: Any, serving: Any, visit: Any) -> None:
    site.collector.marks.replace(
        [Mark(serial="777", kind=MarkKind.RMA, note="sent", ticket="OPS-1", set_at=1764000000.0, set_by="ann")]
    )
    async with serving(site) as client:
        page = await visit(client, "/search?q=777")
        other = await visit(client, "/search?q=778")
    assert "No results for “777”" in page.text
    assert (
        "Marked rma by ann since 2025-11-24T16:00:00Z ( 10 minutes ago ) : sent ( OPS-1 ). It was never seen"
        in page.text
    )
    assert "Marked" not in other.text
