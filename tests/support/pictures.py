"""`python -m tests.support.pictures` takes the README's pictures of the page, of a fleet with a past of its own."""

import asyncio
import functools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from anyio.from_thread import start_blocking_portal

from collector.config import Listen, ServerSettings
from collector.health import Health
from collector.marks import MarkKind, NewMark
from collector.model import ClusterState, Gpu, ReadFailure
from collector.store import MarkStore
from collector.web import serve
from tests.support.chromium import chromium
from tests.web.conftest import Site, keeping

FOLDER = Path(__file__).parents[2] / "docs" / "images"
NOW = datetime(2026, 11, 24, 16, 51, tzinfo=UTC).timestamp()
MINUTE, DAY = 60.0, 86400.0
TRAVELLER = "GPU-5d2c1f0e-8a94-4f0b-9b1e-2f6f0c6b7d11"
NEW = Health(
    remapped_rows_correctable=0,
    remapped_rows_uncorrectable=0,
    row_remap_banks_low=0,
    row_remap_banks_none=0,
    ecc_sram_correctable=0,
    ecc_sram_uncorrectable=0,
    ecc_dram_correctable=0,
    ecc_dram_uncorrectable=0,
    row_remap_pending=False,
    row_remap_failure=False,
    sram_threshold_exceeded=False,
    recovery_action="None",
    inforom="G520.0200.00.05",
)
PENDING = msgspec.structs.replace(NEW, row_remap_pending=True, ecc_dram_correctable=9, ecc_dram_uncorrectable=1)
REMAPPED = msgspec.structs.replace(PENDING, row_remap_pending=False, remapped_rows_uncorrectable=1)
FAILED = msgspec.structs.replace(
    REMAPPED, row_remap_failure=True, row_remap_banks_none=1, remapped_rows_uncorrectable=8, ecc_dram_uncorrectable=4
)
PICTURES = {"fleet": ("/", 820), "gpu": (f"/gpus/{TRAVELLER}", 1120)}  # path, height in pixels


def main() -> None:
    """Take every picture."""
    with served() as url, chromium() as browser:
        for name, (path, height) in PICTURES.items():
            page = browser.new_page(base_url=url, viewport={"width": 1280, "height": height}, color_scheme="light")
            page.goto(path)
            if path == "/":
                page.get_by_text("live", exact=True).wait_for()
            page.screenshot(path=FOLDER / f"{name}.png", animations="disabled")
            page.close()


@contextmanager
def served() -> Iterator[str]:
    """Serve the fleet with its history; gives the URL."""
    with tempfile.TemporaryDirectory() as folder, start_blocking_portal() as portal:
        site = portal.call(Site)
        with portal.wrap_async_context_manager(keeping(site, Path(folder))):
            portal.call(fill, site)
            portal.call(mark, site)
            urls: asyncio.Queue[str] = portal.call(asyncio.Queue)
            server = ServerSettings(listen=Listen("127.0.0.1:0"))
            running = portal.start_task_soon(functools.partial(serve, site.collector, server, ready=urls.put_nowait))
            yield portal.call(urls.get)
            running.cancel()


def fill(site: Site) -> None:
    """Let a fleet of three clusters have sixty days behind it."""
    site.collector.time, site.collector.synced_at = NOW, NOW - 40 * MINUTE
    site.collector.refresh_seconds = 60 * DAY  # only what changed is told below
    site.cluster("lab", ClusterState.UNREACHABLE, "https://10.20.0.1:6443: connection refused")
    for name in ("prod-us-east", "train-eu-west"):
        site.cluster(name)
    site.collector.synced_at = NOW - 20
    for node in range(4):
        site.read("lab", f"lab-{node}", *machine(500 + node), time=NOW - 60 * DAY)
    for node in range(24):
        read(site, node, machine(node, 7 if node in (4, 9, 15) else 8), 60 * DAY)
    for number in range(18):
        site.read("train-eu-west", f"tray-{number:02d}", *tray(number, 1000), time=NOW - 45 * DAY, capacity=4)
    traveller = card(999, 8, uuid=TRAVELLER)
    pending, remapped, failed = (msgspec.structs.replace(traveller, health=one) for one in (PENDING, REMAPPED, FAILED))
    read(site, 4, [*machine(4, 7), traveller], 57 * DAY)
    read(site, 4, [*machine(4, 7), pending], 36 * DAY)
    read(site, 4, machine(4, 7), 34 * DAY)  # to repair
    read(site, 9, [*machine(9, 7), remapped], 25.5 * DAY)
    read(site, 15, [*machine(15, 7), remapped], 9 * DAY)
    read(site, 15, [*machine(15, 7), failed], 3.1 * DAY)
    read(site, 15, [*machine(15, 7), failed], 50 * MINUTE)
    for node in (4, 9):
        read(site, node, [*machine(node, 7), card(900 + node, 8)], (30 - node) * MINUTE)
    read(site, 20, [gpu for gpu in machine(20) if gpu.module != "4"], 12 * MINUTE)
    site.read("train-eu-west", "tray-07", *tray(7, 2000), time=NOW - 3 * MINUTE, capacity=4)
    site.fail("train-eu-west", "tray-12", ReadFailure.TIMEOUT, NOW - 25 * MINUTE)


async def mark(site: Site) -> None:
    """Let somebody mark the GPU that has moved about."""
    assert site.collector.store is not None
    marks = MarkStore(site.collector.store.database, lambda: NOW - 2.9 * DAY)
    new = NewMark(kind=MarkKind.RMA, note="remapping failed, spare ordered", ticket="OPS-1207")
    await site.collector.store.history_writer.flushed(10.0)
    await marks.set([TRAVELLER], new, by="ann")
    await site.collector.refresh_marks()


def read(site: Site, node: int, gpus: Iterable[Gpu], ago: float) -> None:
    """Let a node of the first cluster be read some seconds ago."""
    name = f"ip-10-0-3-{node + 11}"
    site.read("prod-us-east", name, *gpus, time=NOW - ago, machine=f"i-0{(node + 7) * 2654435761 % 2**32:08x}c41d27e")


def machine(number: int, gpus: int = 8) -> list[Gpu]:
    """The cards of a machine with H100s."""
    return [card(number * 8 + module, module) for module in range(1, gpus + 1)]


def tray(number: int, first: int) -> list[Gpu]:
    """The cards of a GB200 tray: two boards with two GPUs each."""
    return [
        msgspec.structs.replace(
            card(first + number * 4 + module, module),
            serial=f"176{(first + number * 2 + (module + 1) // 2) * 2654435761 % 10**10:010d}",
            model="NVIDIA GB200",
            architecture="Blackwell",
            chassis="1822701878581",
            tray=str(number),
            slot=str(number + 1),
            host="1",
        )
        for module in (1, 2, 3, 4)
    ]


def card(number: int, module: int, *, uuid: str | None = None) -> Gpu:
    """One card, whose numbers follow from its own."""
    mixed = number * 2654435761 % 2**32
    return Gpu(
        uuid=uuid or f"GPU-{mixed:08x}-d259-4{mixed % 4096:03x}-9{number % 4096:03x}-{mixed * 40503 % 2**48:012x}",
        serial=f"165{number * 2654435761 % 10**10:010d}",
        model="NVIDIA H100 80GB HBM3",
        architecture="Hopper",
        module=str(module),
        pci_bus_id=f"0000000{module}:01:00.0",
        board_part_number="692-2G520-0205-001",
        gpu_part_number="2330-885-A1",
        minor_number=module - 1,
        vbios="96.00.89.00.01",
        mig=False,
        health=NEW,
    )


if __name__ == "__main__":
    main()
