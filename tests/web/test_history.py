"""What programs get of the past."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx
import msgspec
import pytest

from collector.health import Health
from collector.inventory import Inventory
from collector.marks import Mark, MarkKind, Marks
from collector.model import Fingerprint, Gpu, NodeInfo, Reading
from collector.store import Store, StoreSettings
from tests.support.moves import let_go

pytestmark = pytest.mark.anyio

START = 1764000000.0


@pytest.fixture
async def client(site: Any, serving: Any, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a collector whose store has a GPU that went from n1 over n2 to n3, an hour in each."""
    inventory = Inventory()
    async with (
        Store.open(StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")) as store,
        anyio.create_task_group() as run,
    ):
        run.start_soon(store.run)
        for hours, node in enumerate(("n1", "n2", "n3")):
            reading = Reading(
                cluster="prod",
                node=NodeInfo(name=node, provider_id=f"aws:///us-east-1a/i-{node}"),
                source="gpu-operator/p",
                fingerprint=Fingerprint(pod_uid=node, container_id="c", restarts=0, boot_id="b", capacity=8),
                time=START + 3600 * hours,
                driver_version=None,
                cuda_version=None,
                gpus=(Gpu(uuid="GPU-a1", serial="100"),),
            )
            step = inventory.apply(reading)
            for one in (step, *let_go(inventory, step)):
                store.history_writer.append(one)
        assert await store.history_writer.flushed(10)
        site.collector.store = store
        async with serving(site) as client:
            yield client
        run.cancel_scope.cancel()


async def pages(client: httpx.AsyncClient, path: str, rows: str, column: str, **params: Any) -> list[list[str]]:
    """One column of every page, as long as each names a next one."""
    found: list[list[str]] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get(path, params={**params, **after})).json()
        found.append([row[column] for row in page[rows]])
        if page["next"] is None:
            return found
        after = {"after": page["next"]}


async def test_a_placement_has_its_place_and_times(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/api/v1/gpus/100/history")).json()
    assert answer["next"] is None
    assert answer["placements"][1] == {
        "id": 2,
        "uuid": "GPU-a1",
        "serial": "100",
        "model": None,
        "chassis": None,
        "cluster": "prod",
        "node": "n2",
        "machine": "i-n2",
        "since": "2025-11-24T17:00:00.000Z",
        "until": "2025-11-24T18:00:00.000Z",
        "confirmed_at": "2025-11-24T17:00:00.000Z",
        "last_known": None,
        "altered": [],
        "health_changes": [],
        "tray": None,
        "slot": None,
        "module": None,
        "pci_bus_id": None,
        "degraded": [],
        "level": None,
        "mark": None,
    }


async def test_the_places_of_a_gpu_come_in_pages(client: httpx.AsyncClient) -> None:
    path = "/api/v1/gpus/GPU-a1/history"
    assert await pages(client, path, "placements", "node", limit=2) == [["n3", "n2"], ["n1"]]
    assert await pages(client, path, "placements", "node", limit=1) == [["n3"], ["n2"], ["n1"]]


async def test_the_gpus_of_a_node_come_in_pages(client: httpx.AsyncClient) -> None:
    path = "/api/v1/nodes/n2/history"
    assert await pages(client, path, "placements", "uuid", limit=1, cluster="prod") == [["GPU-a1"]]
    assert await pages(client, path, "placements", "uuid", cluster="lab") == [[]]


async def test_changes_come_in_pages(client: httpx.AsyncClient) -> None:
    params = {"since": "2025-11-24T16:00:00Z", "limit": 2}
    assert await pages(client, "/api/v1/changes", "changes", "event", **params) == [["appeared", "moved"], ["moved"]]


@pytest.mark.parametrize("path", ["gpus/100/history", "nodes/n1/history"])
async def test_an_unknown_cursor_is_refused(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"/api/v1/{path}?after=7")
    assert answer.status_code == 400
    assert answer.json()["detail"] == "after: expected the `next` value of the previous page"


@pytest.mark.parametrize(
    "path",
    ["/api/v1/gpus/%00/history", "/api/v1/nodes/a%00b/history", "/api/v1/changes?cluster=%00", "/search?q=%00ab"],
)
async def test_a_null_character_is_refused(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 400


class TestWhatWasAltered:
    """Each field with before and after, and what is merely last known, in every answer that speaks of the GPU."""

    @pytest.fixture
    async def altered(self, site: Any, serving: Any, kept: Store) -> AsyncIterator[httpx.AsyncClient]:
        """Serve a GPU that lost its serial while MIG was switched on, and one of which nothing was altered."""
        before = Gpu(uuid="GPU-s1", serial="S-1", model="NVIDIA H100", chassis="C9", mig=False)
        after = msgspec.structs.replace(before, serial=None, mig=True)
        site.read("prod-a", "n7", before, Gpu(uuid="GPU-s2", serial="S-2"), time=1764000100.0)
        site.read("prod-a", "n7", after, Gpu(uuid="GPU-s2", serial="S-2"), time=1764000200.0)
        assert await kept.history_writer.flushed(10)
        async with serving(site) as client:
            yield client

    CHANGES: ClassVar[Any] = {
        "serial": {"before": "S-1", "after": None},
        "mig": {"before": False, "after": True},
    }
    KNOWN: ClassVar[Any] = {"serial": "2025-11-24T16:01:40.000Z"}

    async def test_alterations_are_in_the_changes(self, altered: httpx.AsyncClient) -> None:
        rows = (await altered.get("/api/v1/changes", params={"since": "2025-11-24T16:00:30Z"})).json()["changes"]
        (row,) = (row for row in rows if row["event"] == "altered")
        assert (row["uuid"], row["serial"]) == ("GPU-s1", "S-1")
        assert (row["changes"], row["last_known"]) == (self.CHANGES, self.KNOWN)
        assert {row["changes"] is None for row in rows if row["event"] != "altered"} == {True}

    @pytest.mark.parametrize("path", ["gpus/S-1", "gpus/GPU-s1", "gpus/C9", "nodes/n7"])
    async def test_alterations_are_in_gpu_and_node_history(self, altered: httpx.AsyncClient, path: str) -> None:
        rows = (await altered.get(f"/api/v1/{path}/history")).json()["placements"]
        (row,) = (row for row in rows if row["uuid"] == "GPU-s1")
        assert (row["serial"], row["last_known"]) == ("S-1", self.KNOWN)
        assert row["altered"] == [{"time": "2025-11-24T16:03:20.000Z", "changes": self.CHANGES}]
        assert all((row["last_known"], row["altered"]) == (None, []) for row in rows if row["uuid"] == "GPU-s2")

    @pytest.mark.parametrize("query", ["serial=S-1", "uuid=GPU-s1", "chassis=C9"])
    async def test_alterations_appear_in_the_present(self, altered: httpx.AsyncClient, query: str) -> None:
        (row,) = (await altered.get(f"/api/v1/gpus?{query}")).json()["gpus"]
        assert (row["uuid"], row["serial"], row["last_known"]) == ("GPU-s1", "S-1", self.KNOWN)


class TestHealth:
    """A GPU that wears out, is marked, and leaves."""

    @pytest.fixture
    async def worn(self, site: Any, serving: Any, kept: Store) -> AsyncIterator[httpx.AsyncClient]:
        site.read("prod-a", "n8", Gpu(uuid="GPU-w1", serial="W-1", health=Health(remapped_rows_uncorrectable=2)))
        worn = Health(remapped_rows_uncorrectable=1, row_remap_failure=True)
        site.read("prod-a", "n8", Gpu(uuid="GPU-w1", serial="W-1", health=worn), time=1764000200.0)
        site.collector.marks = Marks([Mark(serial="W-1", kind=MarkKind.RMA, set_at=1764000300.0, set_by="ann")])
        assert await kept.history_writer.flushed(10)
        async with serving(site) as client:
            yield client

    @pytest.mark.parametrize("path", ["gpus/W-1", "nodes/n8"])
    async def test_its_history_has_changes_and_current_health(
        self, worn: httpx.AsyncClient, site: Any, path: str
    ) -> None:
        for _ in range(2):  # while it is there, and after it has left
            (row,) = (await worn.get(f"/api/v1/{path}/history")).json()["placements"]
            assert row["health_changes"][0] == {
                "time": "2025-11-24T16:03:20.000Z",
                "changes": {
                    "remapped_rows_uncorrectable": {"before": 2, "after": 1, "went_back": True},
                    "row_remap_failure": {"before": None, "after": True},
                },
            }
            assert (row["degraded"], row["level"], row["mark"]["kind"]) == (["row_remap_failure"], "replace", "rma")
            site.read("prod-a", "n8", time=1764000300.0)
            assert await site.collector.store.history_writer.flushed(10)

    async def test_changes_are_filtered_by_event(self, worn: httpx.AsyncClient) -> None:
        rows = (await worn.get("/api/v1/changes?event=health")).json()["changes"]
        assert [(row["event"], row["uuid"]) for row in rows] == [("health", "GPU-w1")] * 2
        both = (await worn.get("/api/v1/changes?event=health&event=appeared&cluster=prod-a")).json()["changes"]
        assert {row["event"] for row in both} == {"health", "appeared"}

    async def test_an_unknown_event_is_refused(self, worn: httpx.AsyncClient) -> None:
        answer = await worn.get("/api/v1/changes?event=confirmed")
        error = "event: expected one of appeared, moved, vanished, altered, health"
        assert (answer.status_code, answer.json()["detail"]) == (400, error)
