"""A GPU's page."""

from typing import Any

import httpx
import msgspec
import pytest

from collector.health import Health
from collector.marks import Mark, MarkKind, NewMark
from collector.model import ClusterState, Gpu, GpuRef
from collector.store import Store
from collector.views.recent_changes import RecentChanges, as_change

pytestmark = pytest.mark.anyio


async def test_it_shows_the_place_and_the_facts_of_a_gpu(site: Any, serving: Any, visit: Any) -> None:
    card = Gpu(
        uuid="GPU-f",
        serial="42",
        model="NVIDIA GB200",
        architecture="Blackwell",
        chassis="C7",
        slot="12",
        tray="3",
        host="1",
        module="2",
        pci_bus_id="00000008:01:00.0",
        board_part_number="900-2G548",
        gpu_part_number="2941-890-A1",
        minor_number=1,
        vbios="97.00.88",
        mig=False,
    )
    site.read("prod-a", "n9", card)
    async with serving(site) as client:
        page = await visit(client, "/gpus/GPU-f")
    assert "Serial 42 present" in page.text
    assert (
        "Node n9 prod-a Chassis C7 Tray 3 Slot 12 Module 2 PCI bus 00000008:01:00.0 Machine i-n9 "
        "Here since 10 minutes ago 2025-11-24T16:00:00Z Last confirmed 10 minutes ago 2025-11-24T16:00:00Z" in page.text
    )
    assert (
        "Serial 42 UUID GPU-f Model NVIDIA GB200 Architecture Blackwell Chassis C7 Tray 3 Slot 12 Host 1 Module 2 "
        "PCI bus 00000008:01:00.0 Minor number 1 Board part 900-2G548 GPU part 2941-890-A1 VBIOS 97.00.88 MIG off "
        "Driver 570.148.08 CUDA 12.8 Read from pod gpu-operator/p" in page.text
    )
    assert {"/clusters/prod-a/nodes/n9", "/clusters/prod-a", "/chassis/C7", "/api/v1/gpus/GPU-f"} <= set(page.links)


async def test_without_a_store_the_past_comes_from_memory(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n9", Gpu(uuid="GPU-a1", serial="100"), time=1764000300.0)
    async with serving(site) as client:
        page = await visit(client, "/gpus/gpu-A1")
    note = "Add a [store] to its configuration to keep every place of this GPU and its condition there."
    assert note in page.text
    assert '<rect class="bar present" x="50.000%" y="23" width="50.000%"' in page.answer.text
    assert '<rect class="bar past" x="0.000%" y="61" width="50.000%"' in page.answer.text


async def test_the_history_shows_an_absent_gpu(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n1", time=1764000300.0)
    site.collector.recent_changes = RecentChanges()  # as after a restart
    async with serving(site) as client:
        page = await visit(client, "/gpus/gpu-A1")
    assert "GPU Serial 100 missing" in page.text
    assert (
        "Missing from n1 ( prod-a ) since 2025-11-24T16:05:00Z ( 5 minutes ago ) : the last reading found 0 of"
        in page.text
    )
    assert "Last known: health unknown" in page.text
    until = "until 2025-11-24T16:05:00Z ( 5 minutes ago )"
    assert f"Not currently in any node. Last seen on n1 ( prod-a ), {until} ." in page.text
    assert "State missing from n1" in page.text
    assert (
        "5 minutes ago 2025-11-24T16:05:00Z left n1 ( prod-a ) after 5 minutes, and was then on no node. "
        "10 minutes ago 2025-11-24T16:00:00Z first recorded on n1 ( prod-a ), machine i-n1 Stayed there for 5 minutes."
        in page.text
    )
    assert "[store]" not in page.text
    assert "/api/v1/gpus/GPU-a1/history" in page.links


async def test_the_slot_of_a_gpu_survives_a_restart(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n1", Gpu(uuid="GPU-a1", serial="100", module="4", pci_bus_id="00000004:4E:00.0"))
    site.read("prod-a", "n1", time=1764000300.0)
    assert await kept.history_writer.flushed(10)
    site.collector.recent_changes = RecentChanges()
    site.collector.recent_changes.add([as_change(one) for one in await kept.history.changes()])
    async with serving(site) as client:
        text = (await visit(client, "/gpus/GPU-a1")).text
    assert "Last node n1 prod-a Module 4 PCI bus 00000004:4E:00.0" in text
    assert "State missing from n1 1 board to pull" in text
    assert "100 Module 4 PCI bus 00000004:4E:00.0" in text


async def test_a_conflict_names_both_nodes(site: Any, serving: Any, visit: Any) -> None:
    site.conflict("prod-a", ("n1", "n2"), Gpu(uuid="GPU-twice", serial="7"))
    async with serving(site) as client:
        page = await visit(client, "/gpus/GPU-twice")
    assert "Serial 7 conflict" in page.text
    assert "2 nodes keep confirming this GPU." in page.text
    assert page.text.count("7 ( GPU-twice ) on n1 ( prod-a )") == 1
    assert page.text.count("7 ( GPU-twice ) on n2 ( prod-a )") == 1


async def test_a_gpu_that_a_second_node_reports_is_being_verified(site: Any, serving: Any, visit: Any) -> None:
    reported = Gpu(uuid="GPU-a1", serial="100", model="NVIDIA H100")
    site.read("prod-b", "n9", reported, time=1764000300.0, both=True)
    async with serving(site) as client:
        page = await visit(client, "/gpus/GPU-a1")
        assert "Serial 100 being verified" in page.text
        assert "Node n1 prod-a Machine i-n1 Here since 10 minutes ago 2025-11-24T16:00:00Z" in page.text
        assert "Also reported by n9 ( prod-b ), machine i-n9 , since 2025-11-24T16:05:00Z" in page.text
        assert (
            "It was on n1 ( prod-a ), and n9 ( prod-b ) reports it now. Both are published until a reading of the "
            "first node settles whether it has moved." in page.text
        )
        assert "keep confirming this GPU" not in page.text
        site.read("prod-a", "n1", time=1764000310.0)
        page = await visit(client, "/gpus/GPU-a1")
    assert "Serial 100 present" in page.text
    assert "Node n9 prod-b" in page.text
    assert "It was on" not in page.text


async def test_a_claimant_is_not_part_of_a_conflict(site: Any, serving: Any, visit: Any) -> None:
    site.conflict("prod-a", ("n1", "n2"), Gpu(uuid="GPU-twice", serial="7"))
    site.read("prod-b", "n9", Gpu(uuid="GPU-twice", serial="7"), both=True)
    async with serving(site) as client:
        page = await visit(client, "/gpus/GPU-twice")
    assert "Serial 7 conflict" in page.text
    assert "2 nodes keep confirming this GPU." in page.text
    assert "7 ( GPU-twice ) on n9" not in page.text
    assert "Also reported by n9 ( prod-b )" in page.text


async def test_one_serial_under_two_uuids_is_a_conflict_in_words(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n8", Gpu(uuid="GPU-copy", serial="100", model="NVIDIA H100"))
    async with serving(site) as client:
        page = await visit(client, "/gpus/GPU-a1")
    assert "Another GPU has the same serial, 100." in page.text
    assert "100 ( GPU-copy ) on n8 ( prod-a )" in page.text


async def test_a_board_with_two_gpus_is_no_conflict(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/gpus/GPU-b1")
    assert "Serial 900 present" in page.text
    assert "Other GPUs on the same board, with the same serial: GPU-b2" in page.text


async def test_a_place_in_an_unreachable_cluster_is_marked_last_known(client: httpx.AsyncClient, visit: Any) -> None:
    text = (await visit(client, "/gpus/GPU-b1")).text
    assert (
        "The cluster prod-b is unreachable. It has been down since 2025-11-24T16:00:00Z ( 10 minutes ago ) ; "
        "this is its last known state." in text
    )


async def test_a_failing_store_hides_only_the_past(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.break_store()
    async with serving(site) as client:
        page = await visit(client, "/gpus/GPU-a1")
        unknown = await visit(client, "/gpus/GPU-none")
    assert page.status == 200
    assert "Node n1 prod-a" in page.text
    assert "The history is currently unavailable: only data in memory is shown. store " in page.text
    assert unknown.status == 503
    assert "No results for “GPU-none”. Not among the 5 GPUs on 3 nodes across 2 clusters" in unknown.text
    assert "The history could not be searched: store " in unknown.text


async def test_an_unknown_gpu_is_not_found(site: Any, serving: Any, client: Any, visit: Any) -> None:
    page = await visit(client, "/gpus/GPU-none")
    assert page.status == 404
    assert "No results for “GPU-none”. Not among the 5 GPUs on 3 nodes across 2 clusters currently known" in page.text
    assert "1 cluster cannot be reached (prod-b): its last known state was searched." in page.text
    assert "keeps no history" in page.text
    assert site.collector.statuses["prod-b"].state is ClusterState.UNREACHABLE  # and that does not matter


async def test_alterations_are_shown_and_last_known_serials_marked(
    site: Any, serving: Any, visit: Any, perhaps_kept: bool
) -> None:
    before = Gpu(uuid="GPU-s1", serial="S-1", model="NVIDIA H100", mig=False)
    site.read("prod-a", "n7", before, time=1764000100.0)
    site.read("prod-a", "n7", msgspec.structs.replace(before, serial=None, mig=True), time=1764000200.0)
    async with serving(site) as client:
        found = await visit(client, "/search?q=S-1")
        assert found.answer.headers["Location"] == "/gpus/GPU-s1"
        text = (await visit(client, "/gpus/GPU-s1")).text
        for path in ("/", "/changes", "/changes?event=altered"):
            page = (await visit(client, path)).text
            assert "altered GPU S-1 on n7 ( prod-a ) serial S-1 → not reported, MIG off → on" in page
        assert "S-1 (last known) GPU-s1" in (await visit(client, "/clusters/prod-a/nodes/n7")).text
    assert "Serial S-1 present serial last known" in text
    assert "· serial not reported since 8 minutes ago 2025-11-24T16:01:40Z" in text
    assert "Serial S-1 last known, not reported since 8 minutes ago 2025-11-24T16:01:40Z" in text
    assert "7 minutes ago 2025-11-24T16:03:20Z altered serial S-1 → not reported, MIG off → on" in text


async def test_gpus_altered_alike_are_folded(site: Any, serving: Any, visit: Any) -> None:
    gpus = [Gpu(uuid=f"GPU-s{number}", serial=f"S-{number}", mig=False) for number in range(8)]
    site.read("prod-a", "n7", *gpus, time=1764000100.0)
    site.read("prod-a", "n7", *(msgspec.structs.replace(gpu, serial=None) for gpu in gpus), time=1764000200.0)
    async with serving(site) as client:
        text = (await visit(client, "/changes")).text
    assert "altered 8 GPUs on n7 ( prod-a ) serial … → not reported" in text
    assert "S-3 serial S-3 → not reported" in text


SOUND = Health(row_remap_pending=False, remapped_rows_uncorrectable=0, ecc_sram_correctable=9)
PENDING = Health(row_remap_pending=True, remapped_rows_uncorrectable=1, ecc_sram_correctable=9)
FAILED = Health(row_remap_pending=False, row_remap_failure=True, remapped_rows_uncorrectable=4, ecc_sram_correctable=2)


def worn(health: Health | None) -> Gpu:
    return Gpu(uuid="GPU-w", serial="W-1", model="NVIDIA H100", health=health)


def live(site: Any) -> None:
    """Let a GPU wear in one cluster, stop answering, leave, and turn up in another one, degraded."""
    site.read("prod-a", "w1", worn(SOUND), time=1764000010.0)
    site.read("prod-a", "w1", worn(PENDING), time=1764000060.0)
    site.read("prod-a", "w1", time=1764000120.0, lost=(GpuRef("GPU-w"),))
    site.read("prod-a", "w1", worn(FAILED), time=1764000180.0)
    site.read("prod-a", "w1", time=1764000240.0)
    site.read("prod-c", "w2", worn(FAILED), time=1764000300.0)


async def test_its_page_shows_the_whole_history(site: Any, serving: Any, visit: Any, perhaps_kept: bool) -> None:
    live(site)
    async with serving(site) as client:
        text = (await visit(client, "/gpus/GPU-w")).text
    assert "Serial W-1 present needs replacement" in text
    assert "Node w2 prod-c" in text
    assert (
        "Needs replacement : row remapping failed. Row remapping failed since 2025-11-24T16:03:00Z ( 7 minutes ago ) . "
        "NVIDIA's RMA policy applies if the card also fails the field diagnostic." in text
    )
    told = [
        "came to w2 ( prod-c ), machine i-w2 present Here for 5 minutes, after 60 seconds on no node."
        " It was degraded when it came (needs replacement): row remapping failed",
        "left w1 ( prod-a ) after 4 minutes, and was then on no node.",
        "responding again on w1 ( prod-a ): remapped rows (uncorrectable) 1 → 4, row remapping pending yes → no, row"
        " remapping failed yes, SRAM errors (correctable) 9 → 2 (went back)",
        "needs replacement: row remapping failed ; no longer: row remapping pending",
        "A counter that goes back does not mean recovery: a different InfoROM or driver counts differently.",
        "lost stopped responding on w1 ( prod-a )",
        "health on w1 ( prod-a ): remapped rows (uncorrectable) 0 → 1, row remapping pending no → yes",
        "needs a reset or drain: row remapping pending",
        "first recorded on w1 ( prod-a )",
    ]
    at = text.index("History", text.index("Condition"))
    for words in told:
        words = words if perhaps_kept else words.replace(" ), machine i-w2", " )")
        assert words in text[at:], (words, text[at:])
        at += text[at:].index(words)


async def test_an_absent_gpu_keeps_its_condition_and_its_marks(
    site: Any, kept: Store, serving: Any, visit: Any
) -> None:
    live(site)
    site.read("prod-c", "w2", time=1764000360.0)
    site.collector.recent_changes = RecentChanges()  # as after a restart
    mark = NewMark(kind=MarkKind.RMA, note="<b>sent back", ticket="https://t.example/OPS-7")
    await kept.history_writer.flushed(10)
    await kept.marks.set(["W-1"], NewMark(kind=MarkKind.WATCH), by="ben")
    await kept.marks.set(["GPU-w"], mark, by="ann")
    await site.collector.refresh_marks()
    async with serving(site) as client:
        page = await visit(client, "/gpus/GPU-w")
    assert "Serial W-1 missing needs replacement rma" in page.text
    assert "Last seen on w2 ( prod-c ), until 2025-11-24T16:06:00Z" in page.text
    assert "Marked rma by ann since" in page.text
    assert ": <b>sent back ( OPS-7 )" in page.text
    assert "https://t.example/OPS-7" in page.links
    assert (
        "Last known: needs replacement : row remapping failed. As of its last reading, 2025-11-24T16:05:00Z"
        in page.text
    )
    assert "marked rma by ann: <b>sent back ( OPS-7 )" in page.text
    assert "unmarked mark watch removed by ann" in page.text
    assert "marked watch by ben" in page.text


async def test_without_a_store_an_absent_gpu_shows_its_last_reading(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "w1", worn(SOUND), time=1764000010.0)
    site.read("prod-a", "w1", time=1764000240.0)
    async with serving(site) as client:
        text = (await visit(client, "/gpus/GPU-w")).text
    assert "Last known: healthy : nothing that it reported called for" in text
    assert "As of its last reading, 2025-11-24T16:0" in text
    assert "1970" not in text


async def test_health_unreported_by_another_cluster_is_not_a_reason(
    site: Any, serving: Any, visit: Any, perhaps_kept: bool
) -> None:
    repair, whole = Health(ecc_dram_correctable=1, tpc_repair_pending=True), Health(ecc_dram_correctable=1)
    site.read("prod-a", "w1", worn(repair), time=1764000010.0)
    for cluster, node, health, time in (("prod-c", "w2", whole, 60.0), ("prod-a", "w1", SOUND, 120.0)):
        for place in (("prod-a", "w1"), ("prod-c", "w2")):
            if place != (cluster, node):
                site.read(*place, time=1764000000.0 + time)
        site.read(cluster, node, worn(health), time=1764000010.0 + time)
    async with serving(site) as client:
        page = await visit(client, "/gpus/GPU-w")
    assert "Healthy : nothing that it reports calls for" in page.text
    assert "degraded when it came" not in page.text
    assert "no longer reported, which does not mean recovery: repair pending" in page.text
    assert page.answer.text.count('class="span') == 1


async def test_health_unreported_by_another_cluster_is_remembered(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "w1", worn(FAILED), time=1764000010.0)
    site.read("prod-a", "w1", time=1764000060.0)
    site.read("prod-c", "w2", worn(Health(ecc_sram_correctable=2)), time=1764000120.0)
    async with serving(site) as client:
        text = (await visit(client, "/gpus/GPU-w")).text
    assert "Healthy : nothing that it reports calls for" in text
    assert "At its former place, it needed replacement: row remapping failed. Here, this is not reported." in text


async def test_reports_of_two_places_are_shown_separately(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "w1", worn(SOUND), time=1764000010.0)
    site.read("prod-c", "w2", worn(FAILED), time=1764000060.0, both=True)
    async with serving(site) as client:
        text = (await visit(client, "/gpus/GPU-w")).text
        assert "Serial W-1 being verified needs replacement" in text
        assert "As w1 ( prod-a ) reports it: Healthy : nothing that it reports calls for" in text
        assert "As w2 ( prod-c ) reports it: Needs replacement (row remapping failed)." in text


async def test_in_a_conflict_the_worst_place_comes_first(site: Any, serving: Any, visit: Any) -> None:
    site.conflict("prod-a", ("n7", "n8"), worn(SOUND))
    site.read("prod-a", "n8", worn(PENDING), time=1764000300.0, both=True)
    async with serving(site) as client:
        text = (await visit(client, "/gpus/GPU-w")).text
    assert "As n8 ( prod-a ) reports it: Needs a reset or drain : row remapping pending." in text
    assert "As n7 ( prod-a ) reports it: Healthy ." in text


async def test_the_end_of_a_mark_is_in_the_future(site: Any, serving: Any, visit: Any) -> None:
    told: dict[str, Any] = {"set_at": 1764000000.0, "set_by": "ann", "until": 1764000600.0 + 14 * 86400}
    site.collector.marks.replace([Mark(uuid="GPU-a1", kind=MarkKind.WATCH, **told)])
    async with serving(site) as client:
        assert ", until 2025-12-08T16:10:00Z ( in 14 days )" in (await visit(client, "/gpus/GPU-a1")).text


async def test_a_serial_redirects_to_its_gpu(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n1", Gpu(uuid="GPU-a0", serial="100"), time=1764000001.0)
    site.read("prod-a", "n1", Gpu(uuid="GPU-a0"), Gpu(uuid="GPU-a1", serial="100"), time=1764000002.0)
    site.read("prod-a", "n4", Gpu(uuid="GPU-last", serial="444"))
    site.read("prod-a", "n4", Gpu(uuid="GPU-last"), time=1764000100.0)
    async with serving(site) as client:
        answers = {
            name: (await client.get(f"/gpus/{name}")).headers["Location"]
            for name in ("102", "S%2FN:%20102", "444", "100", "n2", "102?at=2025-11-24T16:00:00Z")
        }
    assert answers == {
        "102": "/gpus/GPU-a2",
        "S%2FN:%20102": "/gpus/GPU-a2",
        "444": "/gpus/GPU-last",
        "100": "/search?q=100",
        "n2": "/clusters/prod-a/nodes/n2",
        "102?at=2025-11-24T16:00:00Z": "/gpus/GPU-a2?at=2025-11-24T16:00:00Z",
    }


async def test_a_gpu_on_a_deleted_node_has_no_board_to_pull(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n9", Gpu(uuid="GPU-9", serial="S-9", slot="4", module="2"))
    site.remove("prod-a", "n9", 1764000300.0)
    async with serving(site) as client:
        text = (await visit(client, "/gpus/GPU-9")).text
    assert "Last seat slot 4, module 2 State not in any node Not in any node: nothing to pull Name Date Ticket" in text


async def test_the_serial_of_an_absent_gpu_redirects_to_it(
    site: Any, serving: Any, visit: Any, perhaps_kept: bool
) -> None:
    site.read("prod-a", "n2", time=1764000300.0)
    async with serving(site) as client:
        answer = await client.get("/gpus/102")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/gpus/GPU-a2")
        assert "Not currently in any node. Last seen on n2 ( prod-a )" in (await visit(client, "/gpus/GPU-a2")).text


async def test_a_gpu_never_seen_can_be_marked(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    await kept.marks.set(["GPU-later"], NewMark(kind=MarkKind.WATCH), by="ben")
    await site.collector.refresh_marks()
    async with serving(site) as client:
        page = await visit(client, "/gpus/GPU-later")
    assert page.status == 404
    assert "or in the history, which goes back to 2025-11-24T16:00:00Z." in page.text
    assert "It is marked watch by ben since" in page.text


async def test_a_long_life_comes_in_parts(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    for step in range(150):
        site.read("prod-a", "w1", worn(Health(ecc_dram_correctable=step)), time=1764000001.0 + step)
    async with serving(site) as client:
        newest = await visit(client, "/gpus/GPU-w")
        (older,) = [link for link in newest.links if "before=" in link]
        oldest = await visit(client, older)
        bad = await client.get("/gpus/GPU-w?before=nan")
    assert "DRAM errors (correctable) 148 → 149" in newest.text
    assert "DRAM errors (correctable) 49 → 50" in newest.text
    assert "DRAM errors (correctable) 48 → 49" not in newest.text
    assert "DRAM errors (correctable) 48 → 49" in oldest.text
    assert "first recorded on w1 ( prod-a )" in oldest.text
    assert [link for link in oldest.links if "before=" in link] == []
    assert (bad.status_code, bad.text) == (400, "before: expected the position of an older part\n")


async def test_values_no_longer_reported_are_marked(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "w1", worn(FAILED), time=1764000010.0)
    site.read("prod-a", "w1", worn(Health(remapped_rows_uncorrectable=4)), time=1764000060.0)
    async with serving(site) as client:
        text = (await visit(client, "/gpus/GPU-w")).text
    assert "Row remapping failed yes (last known)" in text
    assert "Needs replacement" in text


async def test_a_gpu_that_reports_nothing_is_not_called_healthy(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "w1", worn(SOUND))
    async with serving(site) as client:
        assert "Healthy : nothing that it reports calls for" in (await visit(client, "/gpus/GPU-w")).text
        text = (await visit(client, "/gpus/GPU-a1")).text
    assert "Health unknown : its driver reports nothing of its wear and faults" in text
    assert "Healthy" not in text


async def test_an_overlong_id_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/gpus/{'a' * 501}")
    assert (answer.status_code, answer.text.count("\n")) == (400, 1)
    assert "expected at most 500 characters, got 501" in answer.text
