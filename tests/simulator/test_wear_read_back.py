"""The parser reads the wear of simulated cards as far as their driver reports it."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.collect import nvidia_smi
from collector.health import COUNTERS, HEALTH_FIELDS, Health
from collector.simulator import DRIVER_FORMS, smi
from collector.simulator.fleet import Fleet
from collector.simulator.wear import NEW

# What no driver before one reports; since when they do.
SINCE = (
    {
        "450": ("remapped_rows_correctable", "remapped_rows_uncorrectable", "row_remap_pending", "row_remap_failure"),
        "535": ("row_remap_banks_low", "row_remap_banks_none", "fabric_state", "fabric_status"),
        "570": ("sram_threshold_exceeded", "recovery_action", "fabric_health"),
        "580": ("remapped_rows_inactive", "channel_repair_pending", "tpc_repair_pending", "unrepairable_memory"),
        "610": ("remapped_banks", "bank_remap_pending"),
    }
)  # fmt: skip
FORMS = list(DRIVER_FORMS)


def reported(form: str, health: Health) -> Health:
    hidden = {field for since, fields in SINCE.items() if FORMS.index(form) < FORMS.index(since) for field in fields}
    if form != "535":
        hidden |= {"reset_required", "drain_and_reset_recommended"}
    return msgspec.structs.replace(health, **dict.fromkeys(hidden))


def values(kind: str) -> st.SearchStrategy[dict[str, int | bool | str]]:
    """Any wear of a card of a kind; fabric and InfoROM as they were."""
    of: dict[str, st.SearchStrategy[int | bool | str]] = {"recovery_action": st.sampled_from(["Reset", "Drain P2P"])}
    for field in HEALTH_FIELDS:
        new = getattr(NEW[kind], field)
        if isinstance(new, bool):
            of[field] = st.booleans()
        elif field in COUNTERS and new is not None:
            of[field] = st.integers(0, 500)
    if NEW[kind].fabric_health is not None:
        of["fabric_health"] = st.sampled_from(["Healthy", "Unhealthy"])
    return st.fixed_dictionaries({}, optional=of)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", NEW)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_wear_is_read_back(kind: str, form: str, data: st.DataObject) -> None:
    fleet = Fleet(clusters=1, nodes=1, gpus=2)
    fleet.swap_tray("sim-0", "gpu-0000", kind)
    wear = data.draw(values(kind))
    [uuid, *_] = fleet.wear("sim-0", "gpu-0000", None, wear)
    read = nvidia_smi.parse(smi.render("h100", fleet.cards("sim-0", "gpu-0000"), 0.0, form=form)).gpus
    truth = msgspec.structs.replace(NEW[kind], **wear)
    assert {gpu.uuid: gpu.health for gpu in read}[uuid] == reported(form, truth)
