"""A chassis's page."""

from typing import Any

import msgspec
import pytest

from collector.model import Gpu, GpuRef

pytestmark = pytest.mark.anyio


def trays(chassis: str = "C-9") -> list[list[Gpu]]:
    """Two trays of two boards."""
    return [
        [
            Gpu(
                uuid=f"GPU-{tray}{module}",
                serial=f"S-{tray}{module}",
                chassis=chassis,
                tray=str(tray),
                slot=str(tray + 1),
                module=str(module),
                pci_bus_id=f"0000000{module}:01:00.0",
            )
            for module in (1, 2)
        ]
        for tray in (2, 10)
    ]


async def test_its_trays_are_in_their_order_with_every_gpu(site: Any, serving: Any, visit: Any) -> None:
    second, tenth = trays()
    site.read("prod-a", "a-ten", *tenth, capacity=2)
    site.read("prod-a", "two", *second, capacity=2, time=1764000001.0)
    site.read("prod-a", "two", second[0], capacity=2, time=1764000100.0, lost=(GpuRef("GPU-22"),))
    async with serving(site) as client:
        page = await visit(client, "/chassis/C-9")
    assert "Chassis C-9 1 lost API GPUs GPUs 4 Trays 2 Nodes 2" in page.text
    assert (
        "Tray 2 slot 3 two module 1 S-21 present module 2 S-22 lost "
        "Tray 10 slot 11 a-ten module 1 S-101 present module 2 S-102 present" in page.text
    )
    assert {"/gpus/GPU-22", "/clusters/prod-a/nodes/two", "/clusters/prod-a"} <= set(page.links)


async def test_a_gpu_that_is_missing_there_is_named(site: Any, serving: Any, visit: Any, perhaps_kept: bool) -> None:
    second, _ = trays()
    site.read("prod-a", "two", *second, capacity=2)
    site.read("prod-a", "two", second[0], capacity=2, time=1764000100.0)
    async with serving(site) as client:
        page = await visit(client, "/chassis/C-9")
    assert "Chassis C-9 1 missing" in page.text
    assert "module 2 S-22 missing GPU-22 bus 00000002:01:00.0 last seen 10 minutes ago" in page.text


async def test_former_gpus_have_their_slot(site: Any, serving: Any, visit: Any, perhaps_kept: bool) -> None:
    second, _ = trays()
    new = msgspec.structs.replace(second[1], uuid="GPU-new", serial="S-new")
    site.read("prod-a", "two", *second, capacity=2)
    site.read("prod-a", "two", second[0], new, capacity=2, time=1764000100.0)
    async with serving(site) as client:
        page = await visit(client, "/chassis/C-9")
    assert "Chassis C-9 no problems" in page.text
    assert "S-22 tray 2, slot 3, module 2 two ( prod-a )" in page.text
    assert ("[store]" in page.text) is not perhaps_kept


async def test_an_empty_chassis_has_its_page(site: Any, kept: Any, serving: Any, visit: Any) -> None:
    second, _ = trays("a/b & c")
    site.read("prod-a", "two", *second, capacity=2)
    site.remove("prod-a", "two", 1764000100.0)
    async with serving(site) as client:
        page = await visit(client, "/chassis/a%2Fb%20&%20c")
    assert page.status == 200
    assert "Chassis a/b & c empty" in page.text
    assert "No GPU currently reports this chassis." in page.text
    assert "S-21 tray 2, slot 3, module 1 two ( prod-a )" in page.text


async def test_an_unknown_chassis_is_not_found(site: Any, kept: Any, serving: Any, visit: Any) -> None:
    async with serving(site) as client:
        page = await visit(client, "/chassis/none")
    assert page.status == 404
    assert "No GPU currently reports the chassis “none”, and none in the history did." in page.text


async def test_a_failing_store_hides_only_the_past(site: Any, kept: Any, serving: Any, visit: Any) -> None:
    site.break_store()
    async with serving(site) as client:
        present, unknown = [await visit(client, f"/chassis/{name}") for name in ("C1", "none")]
    assert present.status == 200
    assert "The history is currently unavailable" in present.text
    assert unknown.status == 503
