"""Looking ids up, now and in the history."""

from typing import Any

import pytest

from collector.marks import Mark, MarkKind
from collector.model import ClusterState, Gpu, ReadFailure
from collector.store import Store
from collector.views.lookup import lookup
from collector.views.lookup_rows import describe_no, lookup_rows
from collector.views.matches import Kind, LookupResult
from collector.views.terms import parse_terms
from tests.web.conftest import Site, kept, perhaps_kept, site

__all__ = ["kept", "perhaps_kept", "site"]

pytestmark = pytest.mark.anyio

UUID = "GPU-5c1fe5e8-3b1f-4a9b-9d3e-0d7c2f7f3a11"


async def find(site: Site, text: str, **options: Any) -> list[LookupResult]:
    return list((await lookup(site.collector, parse_terms(text), **options)).results)


async def rows(site: Site, text: str) -> list[tuple[str, str, str | None, str | None]]:
    answer = await lookup(site.collector, parse_terms(text))
    return [(row.id, row.state, row.node, row.serial) for row in lookup_rows(site.collector, answer)]


async def test_a_short_request_does_not_cause_many_matches(site: Site) -> None:
    for number in range(20):
        site.read("prod-a", f"big-{number}", *(Gpu(uuid=f"GPU-{number}-{n}", model="H9") for n in range(8)))
    found = await find(site, "\n".join(["H9"] * 1000), most=100)
    assert len(found) == 1000
    assert {(one.total, one.cut) for one in found} == {(160, True)}
    assert [len(one.matches) for one in found] == [100] * 200 + [1] * 800


@pytest.fixture
def fleet(site: Site) -> Site:
    """The site with a GPU that has everything by which it can be found."""
    site.read(
        "prod-a",
        "gpu-0007",
        Gpu(
            uuid=UUID,
            serial="1652923034028",
            model="NVIDIA H100 80GB HBM3",
            chassis="1821324180135",
            module="3",
            pci_bus_id="00000000:4E:00.0",
            board_part_number="699-2G548-0201-800",
        ),
        machine="i-0abc",
    )
    return site


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1652923034028", Kind.SERIAL),
        ("S/N: 1652 9230 34028", Kind.SERIAL),
        (UUID.upper(), Kind.UUID),
        (UUID[4:], Kind.UUID),
        (f"MIG-{UUID}/3/0", Kind.UUID),
        ("1821324180135", Kind.CHASSIS),
        ("GPU-0007", Kind.NODE),
        ("Prod-A/gpu-0007", Kind.NODE),
        ("gpu-0007 (prod-a)", Kind.NODE),
        ("i-0ABC", Kind.MACHINE),
        ("aws:///us-east-1a/i-0abc", Kind.MACHINE),
        ("prod-a", Kind.CLUSTER),
        ("NVIDIA H100 80GB HBM3", Kind.MODEL),
        ("H100 80GB", Kind.MODEL),
        ("0000:4e:00.0", Kind.BUS),
        ("4e:00", Kind.BUS),
        ("gpu-0007 PCI:0000:4e:00", Kind.BUS),
        ("699-2g548-0201-800", Kind.PART_NUMBER),
        ("34028", Kind.PARTIAL),
        ("5c1fe5e8", Kind.PARTIAL),
    ],
)
async def test_a_gpu_is_found_by_every_identifier(fleet: Site, text: str, kind: Kind) -> None:
    (result,) = await find(fleet, text)
    assert result.kind is kind
    assert result.total == 1


async def test_the_short_name_of_a_model_finds_its_gpus(fleet: Site) -> None:
    (result,) = await find(fleet, "h100", most=2)
    assert (result.kind, result.total, len(result.matches)) == (Kind.MODEL, 4, 2)
    assert not (await find(fleet, "nvidia"))[0].matches, "that would be everything"


async def test_a_node_of_another_cluster_does_not_match(fleet: Site) -> None:
    assert not (await find(fleet, "prod-b/gpu-0007"))[0].matches
    assert not (await find(fleet, "gpu-0009 0000:4e:00.0"))[0].matches


async def test_each_id_has_its_row_in_the_given_order(fleet: Site) -> None:
    assert await rows(fleet, "none-1\n1652923034028\t100,none-2;100") == [
        ("none-1", "not_found", None, None),
        ("1652923034028", "found", "gpu-0007", "1652923034028"),
        ("100", "found", "n1", "100"),
        ("none-2", "not_found", None, None),
        ("100", "found", "n1", "100"),
    ]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("1652 9230 34028", ["1652 9230 34028"]),  # one serial with blanks
        ("100 102", ["100", "102"]),  # two serials
        ("1652923034028 none", ["1652923034028", "none"]),
        ("9999 8888 77777", ["9999 8888 77777"]),  # nothing, but rather one serial
        ("none other", ["none", "other"]),
        ("34028 4028", ["34028", "4028"]),  # two by their last digits
    ],
)
async def test_words_are_interpreted_by_names_in_the_fleet(fleet: Site, text: str, ids: list[str]) -> None:
    assert [result.term.text for result in await find(fleet, text)] == ids


async def test_the_past_is_found_in_store_and_memory(fleet: Site, perhaps_kept: bool) -> None:
    fleet.read("prod-a", "gpu-0007", time=1764000300.0)
    assert await rows(fleet, f"1652923034028 {UUID} 1821324180135") == [
        ("1652923034028", "gone", "gpu-0007", "1652923034028"),
        (UUID, "gone", "gpu-0007", "1652923034028"),
        ("1821324180135", "gone", "gpu-0007", "1652923034028"),
    ]


async def test_former_gpus_of_a_chassis_show_their_current_place(fleet: Site, kept: Store) -> None:
    fleet.read("prod-a", "n8", Gpu(uuid=UUID, serial="1652923034028", chassis="C9"), time=1764000300.0)
    answer = await lookup(fleet.collector, parse_terms("1821324180135"))
    (row,) = lookup_rows(fleet.collector, answer)
    assert (row.state, row.node, row.note) == ("elsewhere", "gpu-0007", "now on n8 (prod-a)")


async def test_a_deleted_node_is_found(fleet: Site, kept: Store) -> None:
    fleet.remove("prod-a", "gpu-0007", 1764000300.0)
    assert await rows(fleet, "gpu-0007\nprod-a/gpu-0007") == [
        ("gpu-0007", "gone", "gpu-0007", None),
        ("prod-a/gpu-0007", "gone", "gpu-0007", None),
    ]


async def test_an_unsettled_claim_is_mentioned(fleet: Site) -> None:
    fleet.read("prod-a", "n8", Gpu(uuid=UUID, serial="1652923034028"), both=True)
    answer = await lookup(fleet.collector, parse_terms("1652923034028"))
    told = {row.node: (row.claim, row.note) for row in lookup_rows(fleet.collector, answer)}
    assert told["gpu-0007"] == (False, "")
    assert told["n8"] == (
        True,
        "being verified: gpu-0007 (prod-a) had it first and has not been verified yet",
    )


async def test_marks_are_found_by_ticket_and_for_unseen_gpus(fleet: Site) -> None:
    told: dict[str, Any] = {"set_at": 1764000000.0, "set_by": "ann"}
    fleet.collector.marks.replace(
        [
            Mark(uuid=UUID, kind=MarkKind.RMA, ticket="https://t.example/browse/OPS-7", **told),
            Mark(serial="777", kind=MarkKind.WATCH, ticket="OPS-8", **told),
        ]
    )
    assert await rows(fleet, "ops-7 https://t.example/browse/OPS-7 ops-8 777") == [
        ("ops-7", "found", "gpu-0007", "1652923034028"),
        ("https://t.example/browse/OPS-7", "found", "gpu-0007", "1652923034028"),
        ("ops-8", "never_seen", None, "777"),
        ("777", "never_seen", None, "777"),
    ]


async def test_a_negative_answer_lists_what_was_searched(fleet: Site, kept: Store) -> None:
    fleet.fail("prod-a", "n1", ReadFailure.TIMEOUT)
    answer = await lookup(fleet.collector, parse_terms("999"))
    assert describe_no(answer.results[0], answer.searched) == (
        "Not among the 6 GPUs on 4 nodes across 2 clusters currently known or in the history, which goes back to "
        "2025-11-24T16:00:00Z. 1 cluster cannot be reached (prod-b): its last known state was searched. 1 node "
        "cannot be read or has not been read yet: GPUs on it may be unknown. Partial matches "
        "need at least 4 characters."
    )
    many = await lookup(fleet.collector, parse_terms("\n".join(f"nothing-{number}" for number in range(11))))
    assert "For more than 10 ids, partial matches come from the present fleet only." in describe_no(
        many.results[0], many.searched
    )
    assert fleet.collector.statuses["prod-b"].state is ClusterState.UNREACHABLE


async def test_a_cluster_that_was_never_read_is_unknown(fleet: Site) -> None:
    fleet.cluster("prod-c", ClusterState.UNREACHABLE)
    answer = await lookup(fleet.collector, parse_terms("9999"))
    told = describe_no(answer.results[0], answer.searched)
    assert "1 cluster cannot be reached (prod-b): its last known state was searched." in told
    assert "1 cluster cannot be reached and has never been read (prod-c): its GPUs are unknown." in told


async def test_without_history_a_negative_answer_says_so(fleet: Site, kept: Store) -> None:
    fleet.break_store()
    answer = await lookup(fleet.collector, parse_terms("9999"))
    assert "The history could not be searched: store " in describe_no(answer.results[0], answer.searched)
    fleet.collector.store = None
    answer = await lookup(fleet.collector, parse_terms("9999"))
    assert "keeps no history" in describe_no(answer.results[0], answer.searched)


async def test_the_last_digits_of_many_are_found(fleet: Site) -> None:
    found = await find(fleet, "\n".join(["34028", "5c1fe5e8", *(f"nothing-{number}" for number in range(50))]))
    assert [result.kind for result in found[:3]] == [Kind.PARTIAL, Kind.PARTIAL, None]
    assert "only the ends of serials" in found[2].whole


async def test_serials_ending_with_the_text_come_first(fleet: Site) -> None:
    fleet.read("prod-a", "a1", Gpu(uuid="GPU-z1", serial="9340280000000", chassis="34028"))
    fleet.read("prod-a", "a2", Gpu(uuid="GPU-z2", serial="9934028000000"))
    (result,) = await find(fleet, "4028")
    assert [match.gpu.gpu.serial for match in result.matches if match.gpu] == [
        "1652923034028",
        "9340280000000",
        "9934028000000",
    ]
