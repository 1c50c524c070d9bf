"""How worn a simulated card is, which it carries with it, and what repairs do to that."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from collector.health import COUNTERS, HEALTH_FIELDS, Health

__all__ = ["NEW", "after_reset", "flashed", "ill", "worn"]

_DONE_BY_RESET = (
    "row_remap_pending",
    "bank_remap_pending",
    "page_retirement_pending",
    "channel_repair_pending",
    "tpc_repair_pending",
)

_NEW = Health(
    ecc_sram_correctable=0,
    ecc_sram_uncorrectable=0,
    ecc_dram_correctable=0,
    ecc_dram_uncorrectable=0,
    recovery_action="None",
    reset_required=False,
    drain_and_reset_recommended=False,
)
_NEW_HOPPER = msgspec.structs.replace(
    _NEW,
    remapped_rows_correctable=0,
    remapped_rows_uncorrectable=0,
    remapped_rows_inactive=0,
    row_remap_pending=False,
    row_remap_failure=False,
    row_remap_banks_low=0,
    row_remap_banks_none=0,
    remapped_banks=0,
    bank_remap_pending=False,
    sram_threshold_exceeded=False,
    channel_repair_pending=False,
    tpc_repair_pending=False,
    unrepairable_memory=False,
    fabric_state="Completed",
    fabric_status="Success",
    inforom="G520.0200.00.05",
)

# What a new card of each kind has; None: what such cards do not have, as those before Ampere remap no rows.
NEW: Mapping[str, Health] = MappingProxyType(
    {
        "h100": _NEW_HOPPER,
        "gb200": msgspec.structs.replace(_NEW_HOPPER, fabric_health="Healthy", inforom="G548.0201.00.06"),
        "v100": msgspec.structs.replace(
            _NEW,
            retired_pages_single_bit=0,
            retired_pages_double_bit=0,
            page_retirement_pending=False,
            inforom="G503.0204.00.02",
        ),
    }
)


def worn(kind: str, before: Health, wear: Mapping[str, int | bool | str]) -> Health:
    """Return a card's health with some of its fields changed; raises ValueError for one that its kind does not have."""
    for field, value in wear.items():
        if field not in HEALTH_FIELDS:
            raise ValueError(f"no {field}; there are {', '.join(HEALTH_FIELDS)}")
        if (new := getattr(NEW[kind], field)) is None:
            raise ValueError(f"no card of kind {kind} has {field}")
        if type(value) is not type(new) or (isinstance(value, int) and value < 0):
            raise ValueError(f"{field}: {value!r} is not a value such as {new!r}")
    return msgspec.structs.replace(before, **wear)


def after_reset(before: Health) -> Health:
    """Return a card's health after a reset: what waited for one is done, what no reset cures stays."""
    done: dict[str, int | bool | str] = {
        "recovery_action": "None",
        "reset_required": False,
        "drain_and_reset_recommended": False,
    }
    if before.row_remap_pending and before.remapped_rows_uncorrectable is not None:
        done["remapped_rows_uncorrectable"] = before.remapped_rows_uncorrectable + 1
    if before.page_retirement_pending and before.retired_pages_double_bit is not None:
        done["retired_pages_double_bit"] = before.retired_pages_double_bit + 1
    for field in _DONE_BY_RESET:
        if getattr(before, field):
            done[field] = False
    return msgspec.structs.replace(before, **done)


def flashed(before: Health) -> Health:
    """Return a card's health after another InfoROM was written to it: it counts from zero again."""
    version = before.inforom or ""
    counts = {field: 0 for field in COUNTERS if getattr(before, field) is not None}
    last = int(version[-2:], 16) + 1 if version else 0
    return msgspec.structs.replace(before, **counts, inforom=f"{version[:-2]}{last:02X}")


def ill(kind: str, health: Health) -> dict[str, int | bool | str | None]:
    """Return what is not as it is of a new card."""
    new = NEW[kind]
    return {field: value for field in HEALTH_FIELDS if (value := getattr(health, field)) != getattr(new, field)}
