"""What a reading altered is the same in the inventory, the history, the API, the text for people and the records."""

import json
import tempfile
from pathlib import Path

import anyio
import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from collector.model import KEPT_FIELDS, Gpu, changes_object, last_known_object
from collector.store import StoreSettings, Subscription
from collector.views.alterations import as_field_changes, describe_changes
from collector.views.columns import row_object
from collector.views.recent_changes import as_change
from collector.views.rows import change_row, placement_row

texts = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=5)
gpus = st.builds(
    Gpu,
    uuid=st.just("GPU-1"),
    **dict.fromkeys((*KEPT_FIELDS, "vbios", "pci_bus_id", "slot"), texts),
    minor_number=st.none() | st.integers(0, 99),
    mig=st.none() | st.booleans(),
    multi_gpu_board=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@example(
    readings=[Gpu(uuid="GPU-1", serial="S", mig=False), Gpu(uuid="GPU-1", mig=True), Gpu(uuid="GPU-1", serial="T")]
)
@given(readings=st.lists(gpus, min_size=2, max_size=5))
def test_a_change_is_the_same_everywhere(readings, collecting):
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(check, readings, StoreSettings(url=f"sqlite://{Path(folder) / 'gpuid.db'}"), collecting)


async def check(readings, store_settings, collecting):
    async with collecting(store_settings) as one:
        await one.store.reconcile({"lake": Subscription("changes", backfill=True)})
        for number, gpu in enumerate(readings):
            one.read("a", 10.0 + number, gpu)
        assert await one.store.history_writer.flushed(10)
        emitted = one.changes
        recorded = await one.store.history.changes()
        batch = await one.store.outbox.next_batch("lake", 100)
        (placement,) = await one.store.history.where("GPU-1")
    assert len(emitted) == len(recorded) == len(batch.records)
    for change, row, record in zip(emitted, recorded, batch.records, strict=True):
        assert (row.changes, row.last_known) == (change.changes, change.gpu.last_known)
        assert as_change(row).changes == change.changes
        expected = (changes_object(change.changes), last_known_object(change.gpu.last_known))
        answer = row_object(change_row(row))
        sent = json.loads(msgspec.json.encode(record))
        assert (answer["changes"], answer["last_known"]) == (sent["changes"], sent["last_known"]) == expected
        assert describe_changes(as_field_changes(answer["changes"])) == describe_changes(change.changes)
    now = emitted[-1].gpu
    assert (placement.serial, placement.chassis, placement.last_known) == (now.serial, now.chassis, now.last_known)
    altered = [one.changes for one in reversed(emitted) if one.changes]
    assert [as_field_changes(one["changes"]) for one in row_object(placement_row(placement))["altered"]] == altered
