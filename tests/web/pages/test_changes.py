"""The page of what happened."""

import re
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
    assert "Today UTC 16:03:20 " in text
    assert "vanished GPU 103 from n2 ( prod-a )" in text
    assert "altered GPU 102 on n2 ( prod-a ) MIG not reported → on" in text
    assert "moved GPU 100 from n1 ( prod-a ) to n4 ( prod-b )" in text
    assert text.index("vanished GPU 103") < text.index("moved GPU 100") < text.index("first seen 3 GPUs on 2 nodes")
    assert text.count("first seen") == 3  # of the two clusters, and to choose
    assert ("Add a [store] to its configuration to keep every change." in text) is not perhaps_kept


async def test_a_moved_or_vanished_gpu_shows_its_condition(
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
    assert "vanished GPU W-1 needs replacement rma from w2 ( prod-b )" in text
    assert "moved GPU W-1 needs replacement rma from w1 ( prod-a ) to w2 ( prod-b )" in text
    assert "moved 2 GPUs 1 degraded from w1 ( prod-a ) to w3 ( prod-b )" in text
    assert "W-2 needs replacement" in text
    assert "W-0 needs replacement" not in text


async def test_a_vanished_gpu_that_is_back_shows_where(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n1", time=1764000100.0)  # the node that it left is read first
    site.read("prod-a", "n9", Gpu(uuid="GPU-a1", serial="100"), time=1764007200.0)
    site.collector.time = 1764010000.0
    site.read("prod-a", "n2", time=1764000300.0)
    site.read("prod-a", "n2", *(Gpu(uuid=f"GPU-a{n}", serial=f"10{n}") for n in (2, 3)), time=1764000400.0)
    site.read("prod-b", "n3", Gpu(uuid="GPU-b1"), time=1764000300.0)
    async with serving(site) as client:
        page = await visit(client, "/changes")
    assert "vanished GPU 100 from n1 ( prod-a ) , now on n9 ( prod-a )" in page.text
    assert "vanished 2 GPUs from n2 ( prod-a ) , now back there" in page.text
    assert "vanished GPU 900 from n3 ( prod-b )" in page.text
    assert page.answer.text.count('class="event vanished"') == 1


@pytest.mark.parametrize(
    ("query", "there", "not_there"),
    [
        ("event=moved", "moved GPU 100", "vanished GPU"),
        ("event=vanished", "vanished GPU 103", "moved GPU"),
        ("event=appeared", "first seen 2 GPUs on n2", "moved GPU"),
        ("event=first+seen", "first seen 3 GPUs on 2 nodes ( prod-a )", "moved GPU"),
        ("event=replaced", "No matching changes.", "moved GPU"),
        ("cluster=prod-b", "moved GPU 100", "vanished GPU"),
        ("cluster=prod-b&event=altered", "No matching changes.", "moved GPU"),
        ("node=n2", "vanished GPU 103", "moved GPU"),
        ("node=n1&cluster=prod-a", "moved GPU 100", "vanished GPU"),
        ("node=n1&cluster=prod-b", "No matching changes.", "moved GPU"),
        ("text=GPU-A3", "vanished GPU 103", "moved GPU"),
        ("text=nVidia+h100&event=altered", "altered GPU 102", "vanished GPU"),
        ("since=2025-11-24T16:03:00Z", "vanished GPU 103", "moved GPU"),
        ("until=2025-11-24T16:03:00Z", "moved GPU 100", "vanished GPU"),
        ("since=8m&until=2025-11-24T16:10:00Z&event=&node=", "vanished GPU 103", "moved GPU"),
    ],
)
async def test_changes_can_be_filtered(
    eventful: Any, serving: Any, visit: Any, perhaps_kept: bool, query: str, there: str, not_there: str
) -> None:
    async with serving(eventful) as client:
        text = (await visit(client, f"/changes?{query}")).text
    assert there in text
    assert not_there not in text


async def test_filters_are_kept(eventful: Any, serving: Any, visit: Any) -> None:
    query = "event=moved&cluster=prod-b&node=n4&text=10%22%3E&since=1d&until=2025-12-01"
    async with serving(eventful) as client:
        page = await visit(client, f"/changes?{query}")
    assert "<option selected>moved</option>" in page.answer.text
    assert 'name="node" value="n4"' in page.answer.text
    assert 'value="10&#34;&gt;"' in page.answer.text
    csv = "/api/v1/changes?event=moved&q=10%22%3E&cluster=prod-b&node=n4&since=1d&until=2025-12-01"
    assert f"{csv}&order=desc&format=csv" in page.links


async def swapped(site: Any) -> None:
    """Let a node's two GPUs be replaced: they leave, and half an hour later there are others."""
    cards = [Gpu(uuid=f"GPU-t{n}", serial=f"T-{n}", module=str(n % 2 + 1)) for n in range(4)]
    site.read("prod-a", "t1", *cards[:2], time=1763990000.0)
    site.read("prod-a", "t1", time=1763998000.0)
    site.read("prod-a", "t1", *cards[2:], time=1763999800.0)


async def test_a_swapped_tray_is_replaced_slot_by_slot(site: Any, serving: Any, visit: Any, perhaps_kept: bool) -> None:
    await swapped(site)
    async with serving(site) as client:
        text = (await visit(client, "/changes")).text
        chosen = (await visit(client, "/changes?event=replaced")).text
        of_gpu = (await visit(client, "/changes?text=GPU-t0")).text
    row = "replaced 2 GPUs with 2 others on t1 ( prod-a ) Seat by seat Seat Left Came module 1 T-0 T-2 module 2 T-1 T-3"
    assert row in text
    assert row in chosen
    assert "vanished 2 GPUs" not in text
    assert row in of_gpu


async def test_parts_follow_each_other_and_cut_no_group(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    for number in range(130):
        time = 1763000000.0 + 7200.0 * number
        cards = [Gpu(uuid=f"GPU-{number}-{module}", serial=f"S{number}", module=str(module)) for module in range(8)]
        site.read("prod-a", "busy", *cards, time=time)
        site.read("prod-a", "busy", time=time + 4000.0)
    async with serving(site) as client:
        first = await visit(client, "/changes?node=busy")
        (older,) = (link for link in first.links if "before" in link)
        second = await visit(client, older)
    assert not [link for link in second.links if "before" in link]
    told = re.findall(r"(?:replaced|vanished|first seen) (\d) GPUs", first.text + second.text)
    assert len(told) == 131  # the last ones left; 129 times others came; the first ones
    assert set(told) == {"8"}
    assert len(re.findall("replaced 8", first.text)) == 99
    assert "node=busy" in older


async def test_memory_is_read_in_parts(site: Any, serving: Any, visit: Any) -> None:
    for number in range(150):
        worn = Gpu(uuid="GPU-a1", serial="100", mig=bool(number % 2))
        site.read("prod-a", "n1", worn, time=1764000001.0 + number)
    async with serving(site) as client:
        first = await visit(client, "/changes")
        (older,) = (link for link in first.links if "before" in link)
        second = await visit(client, older)
    assert len(re.findall("altered GPU 100", first.text)) == 100
    assert len(re.findall("altered GPU 100", second.text)) == 49 + 1
    assert "first seen 3 GPUs on 2 nodes" in second.text
    assert not [link for link in second.links if "before" in link]


async def test_with_a_failing_store_changes_in_memory_remain(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.break_store()
    async with serving(site) as client:
        page = await visit(client, "/changes")
    assert page.status == 200
    assert "The history is currently unavailable" in page.text
    assert "first seen 3 GPUs on 2 nodes ( prod-a )" in page.text


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("event=born", "event: expected one of replaced, appeared, moved, vanished, altered, health, first seen\n"),
        ("before=x", "before: expected the position of an older page\n"),
        ("since=2999-01-01", "since: expected a time in the past, got '2999-01-01'\n"),
        (
            "colour=red",
            'unknown parameter "colour"; expected one of before, cluster, event, node, since, text, until\n',
        ),
    ],
)
async def test_a_bad_query_says_what_was_expected(client: httpx.AsyncClient, query: str, error: str) -> None:
    answer = await client.get(f"/changes?{query}")
    assert (answer.status_code, answer.text) == (400, error)
