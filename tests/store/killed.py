"""A collector without clusters, to be killed: reads random nodes, records, delivers, and says what is durable.

`python killed.py URL ACKNOWLEDGED RECEIVED SEED` appends to two files: each change once it is committed, and each
batch that the sink received with its key.
"""

import itertools
import os
import random
import sys
import time
from collections.abc import Sequence

import anyio
import msgspec

from collector.config import Duration
from collector.config.sinks import SinkSettings, StdoutSettings
from collector.delivery.delivery import Delivery
from collector.inventory import Inventory
from collector.model import Change, Fingerprint, Gpu, NodeInfo, Reading, SinkRecord
from collector.store import Store, StoreSettings
from tests.support.moves import let_go

GPUS, NODES = [f"GPU-{number}" for number in range(40)], [f"n{number}" for number in range(8)]


class Receiver:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def send(self, records: Sequence[SinkRecord], *, key: str) -> None:
        await anyio.sleep(random.random() / 100)
        os.write(self._file, msgspec.json.encode([key, records]) + b"\n")

    async def check(self) -> str:
        return ""

    async def aclose(self) -> None:
        os.close(self._file)


class Silent:
    def on_exported(self, *_: object) -> None: ...
    def on_export_failure(self, *_: object) -> None: ...
    def on_backlog(self, *_: object) -> None: ...


async def main(*arguments: str) -> None:
    url, acknowledged, received, seed = arguments
    random.seed(seed)
    inventory = Inventory()
    committed = os.open(acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    settings: SinkSettings = StdoutSettings(batch_records=15, batch_age=Duration(0.02))
    async with Store.open(StoreSettings(url=url)) as store:
        remembered = await store.load()
        inventory.restore(remembered.nodes, remembered.absent)
        delivery = Delivery(store, Silent(), open_sink=lambda _name, _settings: Receiver(received))
        await delivery.reconcile({"lake": settings})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.run)
            tasks.start_soon(delivery.run)
            waiting: list[Change] = []
            for number in itertools.count():
                reading = read(random.choice(NODES))
                step = inventory.apply(reading)
                for one in (step, *let_go(inventory, step)):
                    store.history_writer.append(one)
                    waiting += one.changes
                if number % 7 == 0 and await store.history_writer.flushed(10):
                    lines = [f"{one.event} {one.gpu.uuid} {one.place.node} {one.time!r}\n" for one in waiting]
                    os.write(committed, "".join(lines).encode())
                    waiting.clear()
                await anyio.sleep(random.random() / 500)


def read(node: str) -> Reading:
    found = random.sample(GPUS, random.randrange(6))
    return Reading(
        cluster="prod",
        node=NodeInfo(name=node),
        source="x/y",
        fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
        time=time.time(),
        driver_version=None,
        cuda_version=None,
        gpus=tuple(Gpu(uuid=uuid, serial=uuid.lower()) for uuid in sorted(found)),
    )


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
