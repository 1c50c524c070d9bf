"""The page of what happened."""

from typing import Any

import httpx
import pytest

from collector.health import Health
from collector.marks import Mark, MarkKind
from collector.model import Gpu
from collector.store import Store

pytestmark = pytest.mark.anyio


@pytest.fixture
def eventful(site: Any) -> Any:
    """One of each kind: a move, a GPU that vanished, one that says something else of itself."""
    site.read("prod-b", "n4", Gpu(uuid="GPU-a1", serial="100"), time=1764000100.0)
    site.read("prod-a", "n2", Gpu(uuid="GPU-a2", serial="102", model="NVIDIA H100", mig=True), time=1764000200.0)
    return site


async def test_the_newest_come_first_with_and_without_a_store(
    eventful: Any, serving: Any, visit: Any, perhaps_kept: bool
) -> None:
    async with serving(eventful) as client:
        text = (await visit(client, "/changes")).text
    assert "vanished GPU 103 from n2 of prod-a 7 minutes ago 2025-11-24T16:03:20Z" in text
    assert "altered GPU 102 in n2 of prod-a" in text
    assert "moved GPU 100 from n1 of prod-a to n4 of prod-b" in text
    assert text.index("vanished GPU 103") < text.index("moved GPU 100") < text.index("appeared GPU 100")
    assert ("Add a [store] to its configuration to keep every change." in text) is not perhaps_kept


async def test_what_moved_or_vanished_says_what_is_wrong_with_it(
    site: Any, serving: Any, visit: Any, perhaps_kept: bool
) -> None:
    cards = [Gpu(uuid=f"GPU-w{n}", serial=f"W-{n}", health=Health(row_remap_failure=n > 0)) for n in range(3)]
    site.read("prod-a", "w1", *cards, time=1764000010.0)
    site.read("prod-b", "w2", cards[1], time=1764000020.0)
    site.read("prod-b", "w3", cards[0], cards[2], time=1764000030.0)
    site.read("prod-b", "w2", time=1764000040.0)
    site.collector.marks.replace([Mark(uuid="GPU-w1", kind=MarkKind.RMA, set_at=1.0, set_by="ann")])
    async with serving(site) as client:
        text = (await visit(client, "/changes")).text
    assert ("[store]" in text) is not perhaps_kept
    assert "vanished GPU W-1 needs replacement rma from w2 of prod-b" in text
    assert "moved GPU W-1 needs replacement rma from w1 of prod-a to w2 of prod-b" in text
    assert "moved 2 GPUs 1 degraded from w1 of prod-a to w3 of prod-b" in text
    assert "W-2 needs replacement" in text
    assert "W-0 needs replacement" not in text


async def test_a_vanished_gpu_that_is_back_shows_where(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n1", time=1764000100.0)  # the node that it left is read first
    site.read("prod-a", "n9", Gpu(uuid="GPU-a1", serial="100"), time=1764000200.0)
    site.read("prod-a", "n2", time=1764000300.0)
    site.read("prod-a", "n2", *(Gpu(uuid=f"GPU-a{n}", serial=f"10{n}") for n in (2, 3)), time=1764000400.0)
    site.read("prod-b", "n3", Gpu(uuid="GPU-b1"), time=1764000300.0)
    async with serving(site) as client:
        page = await visit(client, "/changes")
    assert "vanished GPU 100 from n1 of prod-a , now in n9 of prod-a" in page.text
    assert "vanished 2 GPUs from n2 of prod-a , now back there" in page.text
    assert "vanished GPU 900 from n3 of prod-b 5 minutes ago" in page.text
    assert page.answer.text.count('class="event vanished"') == 1


@pytest.mark.parametrize(
    ("query", "there", "not_there"),
    [
        ("event=moved", "moved GPU 100", "vanished GPU"),
        ("event=vanished", "vanished GPU 103", "moved GPU"),
        ("cluster=prod-b", "moved GPU 100", "vanished GPU"),
        ("cluster=prod-b&event=altered", "No matching changes.", "moved GPU"),
    ],
)
async def test_they_can_be_chosen(
    eventful: Any, serving: Any, visit: Any, query: str, there: str, not_there: str
) -> None:
    async with serving(eventful) as client:
        text = (await visit(client, f"/changes?{query}")).text
    assert there in text
    assert not_there not in text


async def test_memory_is_read_in_parts(site: Any, serving: Any, visit: Any) -> None:
    for number in range(150):
        site.read("prod-a", f"gpu-{number:03d}", Gpu(uuid=f"GPU-{number}"))
    async with serving(site) as client:
        first = await visit(client, "/changes")
        (older,) = (link for link in first.links if "before" in link)
        second = await visit(client, older)
    assert "/clusters/prod-a/nodes/gpu-149" in first.links
    assert "/clusters/prod-a/nodes/gpu-049" not in first.links
    assert "/clusters/prod-a/nodes/gpu-049" in second.links
    assert "/clusters/prod-a/nodes/n1" in second.links
    assert not [link for link in second.links if "before" in link]


async def test_the_history_is_read_in_parts(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    for number in range(600):
        site.read("prod-a", f"gpu-{number:03d}", Gpu(uuid=f"GPU-{number}"), time=1764000000.0 + number)
    async with serving(site) as client:
        first = await visit(client, "/changes?event=appeared")
        (older,) = (link for link in first.links if "before" in link)
        second = await visit(client, older)
    assert "/clusters/prod-a/nodes/gpu-599" in first.links
    assert "/clusters/prod-a/nodes/gpu-099" not in first.links
    assert "/clusters/prod-a/nodes/gpu-099" in second.links
    assert "/clusters/prod-a/nodes/gpu-000" in second.links
    assert not [link for link in second.links if "before" in link]


async def test_a_store_in_trouble_leaves_what_memory_holds(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.break_store()
    async with serving(site) as client:
        page = await visit(client, "/changes")
    assert page.status == 200
    assert "The history is currently unavailable" in page.text
    assert "appeared GPU 100 in n1 of prod-a" in page.text


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("event=born", "event: expected one of moved, vanished, health, altered, appeared\n"),
        ("before=x", "before: expected the position of an older page\n"),
    ],
)
async def test_a_bad_question_says_what_was_expected(client: httpx.AsyncClient, query: str, error: str) -> None:
    answer = await client.get(f"/changes?{query}")
    assert (answer.status_code, answer.text) == (400, error)
