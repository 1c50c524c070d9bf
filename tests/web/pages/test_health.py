"""The page of the degraded GPUs, and its CSV file."""

import csv
import io
from typing import Any

import pytest

from collector.health import Health
from collector.marks import Mark, MarkKind
from collector.model import Gpu, ReadFailure
from collector.web.pages import health as pages

pytestmark = pytest.mark.anyio

SOUND = Health(row_remap_pending=False, ecc_dram_uncorrectable=0)
PENDING = Health(row_remap_pending=True, remapped_rows_uncorrectable=1)
FAILED = Health(row_remap_failure=True, remapped_rows_uncorrectable=4, ecc_dram_uncorrectable=1200)


def card(name: str, health: Health | None) -> Gpu:
    return Gpu(uuid=f"GPU-{name}", serial=name, model="NVIDIA H100", health=health)


@pytest.fixture
def worn(site: Any) -> Any:
    """The site with three worn GPUs, one of them marked, with a name that a spreadsheet would take for a formula."""
    site.read("prod-a", "w1", card("500", SOUND), card("501", PENDING), card("502", FAILED))
    site.read("prod-a", "w2", card("503", Health(recovery_action="=Reset<b>")))
    site.collector.marks.replace(
        [
            Mark(
                uuid="GPU-502", kind=MarkKind.RMA, ticket="https://t.example/OPS-7", set_at=1764000100.0, set_by="ann"
            ),
            Mark(uuid="GPU-500", kind=MarkKind.WATCH, ticket="javascript:alert(1)", set_at=1764000100.0, set_by="ann"),
        ]
    )
    return site


async def test_the_worst_come_first_with_reason_and_start(worn: Any, serving: Any, visit: Any) -> None:
    async with serving(worn) as client:
        page = await visit(client, "/health")
    assert "3 degraded GPUs 1 needs replacement, 2 need a reset or drain, of 9 GPUs in all clusters." in page.text
    assert (
        "502 NVIDIA H100 needs replacement row remapping failed 10 minutes ago 2025-11-24T16:00:00Z rma OPS-7 "
        "remapped rows (uncorrectable) 4, DRAM errors (uncorrectable) 1,200 w1 ( prod-a )" in page.text
    )
    assert (
        page.text.index("502 NVIDIA H100 needs")
        < page.text.index("503 NVIDIA H100 needs")
        < page.text.index("501 NVIDIA H100 needs")
    )
    assert {"/gpus/GPU-502", "https://t.example/OPS-7", "/health.csv", "/api/v1/gpus?degraded=true"} <= set(page.links)


async def test_unseen_gpus_are_mentioned(worn: Any, serving: Any, visit: Any) -> None:
    worn.fail("prod-a", "w2", ReadFailure.TIMEOUT)
    worn.add("prod-a", "new", capacity=8)
    async with serving(worn) as client:
        text = (await visit(client, "/health")).text
    assert (
        "Not readable now: 2 GPUs in clusters that are down, 1 GPU on nodes "
        "that cannot be read now, 8 GPUs on nodes that were never read." in text
    )
    assert "5 GPUs report no health data" in text


async def test_without_degraded_gpus_it_says_so(site: Any, serving: Any, visit: Any) -> None:
    async with serving(site) as client:
        assert "No readable GPU is degraded." in (await visit(client, "/health")).text
    site.cluster("prod-b")
    async with serving(site) as client:
        page = await visit(client, "/health")
    assert "No degraded GPUs" in page.text
    assert "No GPU is degraded, and every GPU node has been read." in page.text


async def test_marked_gpus_on_no_node_are_listed_too(worn: Any, serving: Any, visit: Any) -> None:
    told: dict[str, Any] = {"set_at": 1764000200.0, "set_by": "ann", "note": "sent away"}
    gone = Mark(uuid="GPU-502", serial="502", kind=MarkKind.RMA, ticket="RMA-7", **told)
    never = Mark(serial="=900", kind=MarkKind.RMA, **told)
    watched = Mark(uuid="GPU-500", kind=MarkKind.WATCH, set_at=1764000100.0, set_by="ann")
    worn.collector.marks.replace([gone, never, watched])
    worn.read("prod-a", "w1", card("500", SOUND), card("501", PENDING), time=1764000300.0)
    async with serving(worn) as client:
        everything = await visit(client, "/health")
        marked = await visit(client, "/health?mark=rma")
        elsewhere = await visit(client, "/health?mark=rma&cluster=prod-b")
        watch = await visit(client, "/health?mark=watch")
        file = await client.get("/health.csv?mark=rma")
    assert "On no node now: 2 GPUs marked rma ." in everything.text
    assert "/health?mark=rma#absent" in everything.links
    assert ("/api/v1/marks" in marked.links, "/api/v1/marks" in watch.links) == (True, False)
    assert "On no node now: 2 GPUs marked rma ." in elsewhere.text
    assert "2 GPUs marked rma and on no node Serial" in marked.text
    assert (
        "502 GPU-502 needs replacement row remapping failed rma RMA-7 sent away 7 minutes ago 2025-11-24T16:03:20Z "
        "w1 ( prod-a )" in marked.text
    )
    assert "=900 – unknown rma sent away 7 minutes ago 2025-11-24T16:03:20Z –" in marked.text
    assert "on no node" not in watch.text.lower()
    rows = list(csv.DictReader(io.StringIO(file.text)))
    assert [(one["serial"], one["uuid"], one["level"], one["state"], one["node"]) for one in rows] == [
        ("502", "GPU-502", "replace", "absent", ""),
        ("'=900", "", "", "absent", ""),
    ]
    assert rows[0]["remapped_rows_uncorrectable"] == "4"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("level=replace", ["502"]),
        ("reason=row_remap_pending", ["501"]),
        ("mark=rma", ["502"]),
        ("mark=watch", ["500"]),
        ("cluster=prod-b", []),
        ("model=NVIDIA+H100", ["502", "503", "501"]),
    ],
)
async def test_filters_are_in_the_page_and_file_urls(
    worn: Any, serving: Any, visit: Any, query: str, expected: list[str]
) -> None:
    async with serving(worn) as client:
        page = await visit(client, f"/health?{query}")
        assert f"/health.csv?{query}" in page.links
        [found] = [link for link in page.links if link.startswith("/api/v1/gpus?")]
        listed = {gpu["serial"] for gpu in (await client.get(found)).json()["gpus"]}
        answer = await client.get(f"/health.csv?{query}")
    assert [row["serial"] for row in csv.DictReader(io.StringIO(answer.text))] == expected
    table = page.text.split("Latest health changes")[0]
    assert listed == set(expected)
    assert ("No matching GPUs." in table) == (not expected)
    assert [name for name in ("500", "501", "502", "503") if name in table] == sorted(expected)


async def test_the_file_matches_the_page(worn: Any, serving: Any) -> None:
    async with serving(worn) as client:
        answer = await client.get("/health.csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    worst, hostile, _ = csv.DictReader(io.StringIO(answer.text))
    assert {key: value for key, value in worst.items() if value and key not in ("model", "confirmed_at", "since")} == {
        "level": "replace",
        "degraded": "row_remap_failure",
        "degraded_since": "2025-11-24T16:00:00.000Z",
        "mark": "rma",
        "ticket": "https://t.example/OPS-7",
        "cluster": "prod-a",
        "node": "w1",
        "machine": "i-w1",
        "serial": "502",
        "uuid": "GPU-502",
        "state": "found",
        "remapped_rows_uncorrectable": "4",
        "row_remap_failure": "true",
        "ecc_dram_uncorrectable": "1200",
    }
    assert hostile["recovery_action"] == "'=Reset<b>"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/health?level=bad", "level: expected one of replace, reset"),
        ("/health?mark=gone", "mark: expected one of rma, quarantine, watch"),
        ("/health?reason=x", "reason: expected one of "),
        ("/health?page=0", "page: expected a whole number of at least 1"),
        ("/health.csv?limit=1", 'unknown parameter "limit"'),
    ],
)
async def test_a_bad_query_says_what_was_expected(client: Any, path: str, expected: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.text[: len(expected)]) == (400, expected)


async def test_long_lists_come_in_parts(site: Any, serving: Any, visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site.read("prod-a", "w1", *(card(f"5{number:03}", PENDING) for number in range(250)))
    async with serving(site) as client:
        page = await visit(client, "/health?page=3")
        monkeypatch.setattr(pages, "CSV_PART_ROWS", 100)
        answer = await client.get("/health.csv")
    serials = [row["serial"] for row in csv.DictReader(io.StringIO(answer.text))]
    assert (len(serials), len(set(serials))) == (250, 250)
    assert "201–250 of 250 GPUs" in page.text
    assert "/health?page=2" in page.links
