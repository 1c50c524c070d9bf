"""A node's page."""

from typing import Any

import httpx
import msgspec
import pytest

from collector.health import Health
from collector.marks import Mark, MarkKind
from collector.model import Gpu, GpuRef, NodeInfo, ReadFailure, Uncovered
from collector.store import Store

pytestmark = pytest.mark.anyio


async def test_it_shows_every_gpu_and_its_slot(site: Any, serving: Any, visit: Any) -> None:
    card = Gpu(uuid="GPU-t", serial="5", chassis="C7", tray="3", slot="12", host="1", module="2", pci_bus_id="00:01")
    site.read("prod-a", "n9", card, capacity=1)
    async with serving(site) as client:
        page = await visit(client, "/clusters/prod-a/nodes/n9")
    assert (
        "n9 complete Print repair sheet API Node GPUs GPUs 1 of 1 Cluster prod-a Chassis C7 Tray 3 Slot 12 Host 1 "
        "Last read 10 minutes ago 2025-11-24T16:00:00Z Machine i-n9" in page.text
    )
    assert "module 2 5 present" in page.text
    assert "2 5 GPU-t not reported – 00:01 – 10 minutes ago 2025-11-24T16:00:00Z" in page.text
    assert "/chassis/C7" in page.links
    assert (
        "Cluster prod-a Machine i-n9 Provider ID aws:///us-east-1a/i-n9 Chassis C7 Capacity 1 Driver 570.148.08 "
        "CUDA 12.8 Read from pod gpu-operator/p GPU node by its GPU pod Boot ID" in page.text
    )


async def test_a_place_whose_gpu_was_not_found_is_empty(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n9", *(Gpu(uuid=f"GPU-{n}", tray="3", module=str(n)) for n in (1, 2, 4)), capacity=4)
    site.read("prod-a", "n8", Gpu(uuid="GPU-8", tray="3", module="7"), capacity=3)
    async with serving(site) as client:
        gap = (await visit(client, "/clusters/prod-a/nodes/n9")).text
        unknown = (await visit(client, "/clusters/prod-a/nodes/n8")).text
    assert "module 1 GPU-1 present module 2 GPU-2 present module 3 not found missing module 4 GPU-4" in gap
    assert "module 7 GPU-8 present position unknown 2 not found missing" in unknown


async def test_missing_gpus_are_shown(client: httpx.AsyncClient, visit: Any) -> None:
    text = (await visit(client, "/clusters/prod-a/nodes/n2")).text
    assert "n2 6 missing Print repair sheet API Node GPUs GPUs 2 of 8" in text
    assert "6 of 8 GPUs were not found by the last reading" in text


async def test_a_lost_gpu_is_not_also_missing(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n9", Gpu(uuid="GPU-9"), capacity=4, lost=(GpuRef(None, "00000000:5D:00.0"),))
    async with serving(site) as client:
        node, cluster, fleet, problems = [
            (await visit(client, path)).text
            for path in ("/clusters/prod-a/nodes/n9", "/clusters/prod-a?name=n9", "/", "/problems")
        ]
    assert "n9 1 lost 2 missing Print repair sheet API Node GPUs GPUs 1 of 4" in node
    assert "The GPU at 00000000:5D:00.0 does not respond (never read), since 2025-11-24T16:00:00Z" in node
    assert "2 of 4 GPUs were not found by the last reading" in node
    assert "n9 1 lost 2 missing 1 of 4" in cluster
    assert "1 GPU on n9 (prod-a) does not respond" in fleet
    assert "was never read 00000000:5D:00.0" in problems
    assert "21 GPUs missing on 4 nodes across 2 clusters" in fleet


async def test_a_node_that_was_never_read_says_so(site: Any, serving: Any, visit: Any) -> None:
    site.publish(site.inventory.set_node("prod-a", NodeInfo(name="new", capacity=8)))
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/new")).text
    assert "new pending Print repair sheet API Node GPUs GPUs ? of 8 Cluster prod-a Last read never" in text


async def test_an_unreadable_node_has_a_reason_and_a_time(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n9", Gpu(uuid="GPU-9"), capacity=1)
    site.fail("prod-a", "n9", ReadFailure.EXIT_STATUS)
    site.publish(site.inventory.set_node("prod-a", NodeInfo(name="new", capacity=8)))
    site.fail("prod-a", "new", ReadFailure.FORBIDDEN)
    async with serving(site) as client:
        known, new = [(await visit(client, f"/clusters/prod-a/nodes/{name}")).text for name in ("n9", "new")]
        gpu = (await visit(client, "/gpus/GPU-9")).text
    assert "n9 cannot be read Print repair sheet API Node GPUs GPUs 1 of 1" in known
    assert "complete" not in known
    said = (
        "Every reading since 2025-11-24T16:09:00Z ( 60 seconds ago ) has failed, the last one because the command "
        "exited with an error. The last successful reading is shown. See the collector's log for details."
    )
    assert said in known
    assert "new cannot be read Print repair sheet API Node GPUs GPUs ? of 8 Cluster prod-a Last read never" in new
    assert "permission for pods/exec or pods/log is missing. See the collector's log for details." in new
    assert (
        "n9 ( prod-a ) has been unreadable since 2025-11-24T16:09:00Z ( 60 seconds ago ) : the command exited "
        "with an error. This is the last known state." in gpu
    )


async def test_a_node_without_a_ready_pod_says_why_and_since_when(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n9", Gpu(uuid="GPU-9"), capacity=1)
    site.uncover("prod-a", "n9", Uncovered.POD_NOT_READY)
    site.add("prod-a", "bare", sign="nvidia.com/gpu.present")
    site.uncover("prod-a", "bare", Uncovered.NO_POD)
    async with serving(site) as client:
        known, bare = [(await visit(client, f"/clusters/prod-a/nodes/{name}")).text for name in ("n9", "bare")]
        gpu = (await visit(client, "/gpus/GPU-9")).text
    assert "n9 unread: pod not ready Print repair sheet API Node GPUs GPUs 1 of 1" in known
    assert "complete" not in known
    assert (
        "It cannot be read because its pod is not ready, since 2025-11-24T16:05:00Z ( 5 minutes ago ) . "
        "The last successful reading is shown." in known
    )
    assert "bare unread: no pod Print repair sheet API Node GPUs GPUs ? of 8" in bare
    assert "because no pod of a configured source runs on it, since 2025-11-24T16:05:00Z" in bare
    assert "Kubernetes says that it has GPUs: nvidia.com/gpu.present ." in bare
    assert "n9 ( prod-a ) cannot be read: its pod is not ready. This is the last known state." in gpu


async def test_an_unreachable_cluster_is_never_called_complete(
    client: httpx.AsyncClient, site: Any, visit: Any
) -> None:
    site.read("prod-b", "n3", Gpu(uuid="GPU-b1"), capacity=1)
    assert (
        "n3 last known Print repair sheet API Node GPUs GPUs 1 of 1"
        in (await visit(client, "/clusters/prod-b/nodes/n3")).text
    )


async def test_a_node_with_unknown_capacity_is_not_called_complete(
    client: httpx.AsyncClient, site: Any, visit: Any
) -> None:
    site.read("prod-a", "mig", Gpu(uuid="GPU-m"), capacity=None)
    assert (
        "mig read Print repair sheet API Node GPUs GPUs 1 Cluster"
        in (await visit(client, "/clusters/prod-a/nodes/mig")).text
    )


async def test_a_node_whose_reading_is_overdue_says_so(site: Any, serving: Any, visit: Any) -> None:
    site.collector.refresh_seconds = 30.0
    site.read("prod-a", "n9", Gpu(uuid="GPU-9"), capacity=1)
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/n9")).text
    assert "n9 overdue Print repair sheet API Node GPUs GPUs 1 of 1" in text
    assert "Its next reading is overdue (refresh interval: 30 seconds)." in text


async def test_a_conflict_names_the_other_node(site: Any, serving: Any, visit: Any) -> None:
    site.conflict("prod-a", ("n1", "n2"), Gpu(uuid="GPU-twice"), capacity=1)
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/n1")).text
    assert "n1 conflict" in text
    assert "Conflict: GPU-twice is confirmed here and on n2 ( prod-a )" in text


async def test_a_claim_is_shown_on_both_nodes(site: Any, serving: Any, visit: Any) -> None:
    site.read("prod-b", "n9", Gpu(uuid="GPU-a1", serial="100"), capacity=1, both=True)
    async with serving(site) as client:
        first = (await visit(client, "/clusters/prod-a/nodes/n1")).text
        second = (await visit(client, "/clusters/prod-b/nodes/n9")).text
    assert "n9 being verified" in second
    assert "Conflict" not in first + second
    assert (
        "Being verified: GPU-a1 was here, and is reported by n9 ( prod-b ). Both nodes are published until a reading "
        "of this one settles whether it has moved." in first
    )
    assert (
        "Being verified: GPU-a1 is reported here, and was on n1 ( prod-a ). Both nodes are published until a reading "
        "of the first one settles whether it has moved." in second
    )


async def test_former_gpus_show_their_current_place(site: Any, serving: Any, visit: Any, perhaps_kept: bool) -> None:
    site.read("prod-a", "n9", Gpu(uuid="GPU-a2", serial="102", model="NVIDIA H100"), time=1764000300.0)
    site.read("prod-a", "n2", time=1764000360.0)
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/n2")).text
    since = "10 minutes ago 2025-11-24T16:00:00Z" if perhaps_kept else "–"
    assert f"102 GPU-a2 {since} 5 minutes ago 2025-11-24T16:05:00Z unknown on n9 ( prod-a )" in text
    assert f"103 GPU-a3 {since} 4 minutes ago 2025-11-24T16:06:00Z unknown missing" in text
    assert ("[store]" in text) is not perhaps_kept


async def test_the_most_recent_former_gpus_are_shown(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.read("prod-a", "n9", Gpu(uuid="GPU-first"), time=1764000001.0)
    for number in range(150):
        site.read("prod-a", "n9", Gpu(uuid="GPU-first"), Gpu(uuid=f"GPU-{number}"), time=1764000002.0 + number)
    site.read("prod-a", "n9", time=1764000500.0)
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/n9")).text
    assert "GPU-first" in text
    assert "GPU-149" in text
    assert "GPU-51 " in text
    assert "GPU-50 " not in text


async def test_a_deleted_node_still_has_its_page(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.remove("prod-a", "n1", 1764000300.0)
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/n1")).text
    assert "n1 gone API Node GPUs History No node of this name in prod-a has GPUs or a GPU pod." in text
    assert "100 GPU-a1 10 minutes ago 2025-11-24T16:00:00Z 5 minutes ago 2025-11-24T16:05:00Z unknown not seen" in text


async def test_a_failing_store_hides_only_the_past(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    site.break_store()
    async with serving(site) as client:
        page = await visit(client, "/clusters/prod-a/nodes/n1")
        unknown = await visit(client, "/clusters/prod-a/nodes/none")
    assert page.status == 200
    assert "GPUs 1 of 8" in page.text
    assert "The history is currently unavailable" in page.text
    assert unknown.status == 503


async def test_an_unknown_node_is_not_found(client: httpx.AsyncClient, visit: Any) -> None:
    page = await visit(client, "/clusters/prod-a/nodes/none")
    assert page.status == 404
    assert "No node “none” with GPUs or a GPU pod is known in the cluster “prod-a”." in page.text


async def test_a_last_known_chassis_is_marked_wherever_it_is_shown(site: Any, serving: Any, visit: Any) -> None:
    gpus = [Gpu(uuid=f"GPU-c{n}", serial=f"S-{n}", chassis="C-1", tray="2", module=str(n)) for n in range(2)]
    site.read("prod-a", "n7", *gpus, time=1764000100.0)
    silent = [msgspec.structs.replace(gpu, chassis=None) for gpu in gpus]
    async with serving(site) as client:
        site.read("prod-a", "n7", gpus[0], silent[1], time=1764000200.0)
        assert "(last known)" not in (await visit(client, "/clusters/prod-a/nodes/n7")).text, "one reports it"
        site.read("prod-a", "n7", *silent, time=1764000300.0)
        text = (await visit(client, "/clusters/prod-a/nodes/n7")).text
        assert "Chassis C-1 (last known) Tray 2" in text
        assert text.count("C-1 (last known)") == 2, "in the tray and in the details"
        assert "C-1 (last known)" in (await visit(client, "/clusters/prod-a")).text
        assert "Chassis C-1 last known" in (await visit(client, "/chassis/C-1")).text


async def test_it_shows_the_condition_of_each_gpu(site: Any, serving: Any, visit: Any) -> None:
    conditions = (Health(row_remap_pending=False), Health(row_remap_pending=True), Health(row_remap_failure=True), None)
    cards = [Gpu(uuid=f"GPU-{n}", serial=f"S-{n}", module=str(n), health=one) for n, one in enumerate(conditions)]
    site.read("prod-a", "n9", *cards, capacity=4)
    site.collector.marks.replace([Mark(uuid="GPU-0", kind=MarkKind.WATCH, set_at=1.0, set_by="ann")])
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/n9")).text
        fleet = (await visit(client, "/clusters/prod-a")).text
    assert "n9 needs replacement Print repair sheet API Node GPUs GPUs 4 of 4" in text
    assert "1 GPU needs replacement: S-2 (row remapping failed)." in text
    assert "1 GPU needs a reset or drain: S-1 (row remapping pending)." in text
    assert (
        "module 0 S-0 marked watch module 1 S-1 needs a reset or drain module 2 S-2 needs replacement module 3" in text
    )
    assert "S-0 GPU-0 marked watch –" in text
    assert "S-1 GPU-1 needs a reset or drain row remapping pending –" in text
    assert "S-3 GPU-3 not reported –" in text
    assert "2 degraded GPUs: 1 needs replacement, 1 needs a reset or drain." in fleet
    assert "n9 needs replacement 4 of 4" in fleet


async def test_it_shows_the_last_condition_of_former_gpus(
    site: Any, serving: Any, visit: Any, perhaps_kept: bool
) -> None:
    conditions = (Health(row_remap_pending=False), Health(row_remap_failure=True))
    sound, worn = (Gpu(uuid=f"GPU-w{n}", serial=f"S-{n}", health=one) for n, one in enumerate(conditions))
    site.read("prod-a", "n9", sound, worn, time=1764000100.0)
    site.read("prod-a", "n8", sound, time=1764000200.0)
    site.read("prod-a", "n9", time=1764000300.0)
    site.collector.marks.replace([Mark(uuid="GPU-w1", kind=MarkKind.RMA, set_at=1.0, set_by="ann")])
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/n9")).text
    assert "healthy on n8 ( prod-a )" in text
    assert ("[store]" in text) is not perhaps_kept
    assert "2025-11-24T16:05:00Z needs replacement row remapping failed rma missing" in text


async def test_a_missing_gpu_is_named_in_its_seat_and_on_the_repair_sheet(
    site: Any, serving: Any, visit: Any, perhaps_kept: bool
) -> None:
    cards = [
        Gpu(uuid=f"GPU-m{n}", serial=f"S-m{n}", module=str(n), pci_bus_id=f"0000000{n}:4E:00.0", model="NVIDIA H100")
        for n in (1, 2)
    ]
    site.read("prod-a", "n9", *cards, capacity=2)
    site.read("prod-a", "n9", cards[0], capacity=2, time=1764000300.0)
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/n9")).text
    assert "Missing: S-m2 ( GPU-m2 ), module 2, PCI bus 00000002:4E:00.0 , last seen 2025-11-24T16:00:00Z" in text
    assert "module 2 S-m2 missing GPU-m2 bus 00000002:4E:00.0 last seen 10 minutes ago 2025-11-24T16:00:00Z" in text
    sheet = text[text.index("Repair sheet") :]
    assert "/clusters/prod-a/nodes/n9 As of 2025-11-24T16:10:00Z" in sheet
    assert "1 board to pull S-m2 Module 2 PCI bus 00000002:4E:00.0 NVIDIA H100 GPU-m2 Missing , last seen" in sheet
    assert "Boards that stay Serial Module PCI bus S-m1 1 00000001:4E:00.0" in sheet


async def test_returned_gpus_and_long_lists_are_collapsed(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    cards = [Gpu(uuid=f"GPU-e{n}", serial=f"S-e{n}", module=str(n)) for n in range(1, 13)]
    site.read("prod-a", "n9", *cards, time=1764000010.0)
    site.read("prod-a", "n9", time=1764000020.0)
    site.read("prod-a", "n9", cards[0], time=1764000030.0)
    async with serving(site) as client:
        text = (await visit(client, "/clusters/prod-a/nodes/n9")).text
    assert "3 more GPUs" in text
    assert "1 earlier stay of GPUs that are here again" in text


async def test_the_repair_sheet_says_what_it_cannot_know(site: Any, serving: Any, visit: Any) -> None:
    known, lost = Gpu(uuid="GPU-1", serial="S-1"), Gpu(uuid="GPU-2", serial="S-2", pci_bus_id="00000000:2E:00.0")
    site.read("prod-a", "n9", known, lost, capacity=5)
    here = (GpuRef(None, "00000000:2E:00.0"), GpuRef(None, "00000000:5D:00.0"))
    site.read("prod-a", "n9", known, capacity=5, lost=here, time=1764000100.0)
    site.fail("prod-a", "n9", ReadFailure.EXIT_STATUS)
    async with serving(site) as client:
        node = (await visit(client, "/clusters/prod-a/nodes/n9")).text
        gpu = (await visit(client, "/gpus/GPU-2")).text
    sheet = node[node.rindex("Repair sheet") :]
    assert "2 boards to pull" in sheet
    assert "serial unknown PCI bus 00000000:5D:00.0 Does not respond and was never read" in sheet
    assert "2 more GPUs of the node's capacity not found, with unknown serials." in sheet
    assert "unreadable since 2025-11-24T16:09:00Z: the command exited with an error. Listed: the reading at" in sheet
    assert "State lost 1 board to pull" in gpu


async def test_a_slot_that_keeps_losing_gpus_is_named(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    def card(number: int) -> Gpu:
        return Gpu(uuid=f"GPU-e{number}", serial=f"S-e{number}", module="3")

    other = Gpu(uuid="GPU-o", module="1")
    for number in range(1, 4):
        site.read("prod-a", "n9", other, card(number), capacity=2, time=1764000000.0 + 20 * number)
        site.read("prod-a", "n9", other, capacity=2, time=1764000010.0 + 20 * number)
    async with serving(site) as client:
        page = await visit(client, "/clusters/prod-a/nodes/n9")
        gpu = await visit(client, "/gpus/GPU-e1")
    assert "Module 3 has lost 3 GPUs: S-e3 , S-e2 , S-e1 , the last time 9 minutes ago" in page.text
    assert "The slot may be at fault rather than the cards." in page.text
    assert "dropped out" not in gpu.text


async def test_a_card_that_keeps_dropping_out_is_named(site: Any, kept: Store, serving: Any, visit: Any) -> None:
    for at in (0.0, 40.0):
        site.read("prod-a", "n9", Gpu(uuid="GPU-e", serial="S-e", module="3"), time=1764000010.0 + at)
        site.read("prod-a", "n9", time=1764000030.0 + at)
    async with serving(site) as client:
        node = (await visit(client, "/clusters/prod-a/nodes/n9")).text
        gpu = (await visit(client, "/gpus/GPU-e")).text
    assert "Module 3 has lost S-e 2 times, the last time 9 minutes ago" in node
    assert "earlier stay" not in node
    assert "It has dropped out of n9 ( prod-a ) 2 times, without appearing anywhere else." in gpu
    assert "Last node n9 prod-a Module 3" in gpu
    assert "State missing from n9 1 board to pull" in gpu
