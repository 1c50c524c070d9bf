"""Describes altered fields of GPUs for people, with a table of field labels."""

from collections.abc import Iterable, Mapping, Sequence

from collector.health import COUNTERS, Health
from collector.model import FieldChange

__all__ = [
    "FACT_LABELS",
    "HEALTH_LABELS",
    "as_field_changes",
    "describe_changes",
    "describe_common_changes",
    "describe_counters",
    "fields_of",
]

# By the names in the API and in records.
FACT_LABELS = {
    "serial": "Serial",
    "uuid": "UUID",
    "model": "Model",
    "architecture": "Architecture",
    "chassis": "Chassis",
    "tray": "Tray",
    "slot": "Slot",
    "host": "Host",
    "module": "Module",
    "pci_bus_id": "PCI bus",
    "minor_number": "Minor number",
    "board_part_number": "Board part",
    "gpu_part_number": "GPU part",
    "vbios": "VBIOS",
    "mig": "MIG",
    "virtual": "Virtual",
    "multi_gpu_board": "Several GPUs on the board",
}

HEALTH_LABELS = {
    "lost": "Lost",
    "remapped_rows_correctable": "Remapped rows (correctable)",
    "remapped_rows_uncorrectable": "Remapped rows (uncorrectable)",
    "remapped_rows_inactive": "Remapped rows (inactive)",
    "row_remap_pending": "Row remapping pending",
    "row_remap_failure": "Row remapping failed",
    "row_remap_banks_low": "Banks with few spare rows",
    "row_remap_banks_none": "Banks without spare rows",
    "remapped_banks": "Remapped banks",
    "bank_remap_pending": "Bank remapping pending",
    "retired_pages_single_bit": "Retired pages (single-bit)",
    "retired_pages_double_bit": "Retired pages (double-bit)",
    "page_retirement_pending": "Page retirement pending",
    "ecc_sram_correctable": "SRAM errors (correctable)",
    "ecc_sram_uncorrectable": "SRAM errors (uncorrectable)",
    "ecc_dram_correctable": "DRAM errors (correctable)",
    "ecc_dram_uncorrectable": "DRAM errors (uncorrectable)",
    "sram_threshold_exceeded": "SRAM error threshold exceeded",
    "channel_repair_pending": "Channel repair pending",
    "tpc_repair_pending": "TPC repair pending",
    "unrepairable_memory": "Unrepairable memory",
    "recovery_action": "Recovery action",
    "reset_required": "Reset required",
    "drain_and_reset_recommended": "Drain and reset recommended",
    "fabric_state": "Fabric state",
    "fabric_status": "Fabric status",
    "fabric_health": "Fabric health",
    "inforom": "InfoROM",
}

_SEVERAL = "…"  # stands for differing values


def describe_changes(changes: Iterable[FieldChange]) -> str:
    """Describe the changes of one GPU: "serial 1653922001234 → not reported, MIG off → on".

    For its health: "remapped rows (uncorrectable) 0 → 2, SRAM errors (correctable) 7 → 0 (went back)".
    """
    return ", ".join(_described(change) for change in changes)


def describe_common_changes(gpus: Sequence[tuple[FieldChange, ...]]) -> str:
    """Describe changes to the same fields of several GPUs; differing values become an ellipsis."""
    if all(changes == gpus[0] for changes in gpus):
        return describe_changes(gpus[0]) if gpus else ""
    return ", ".join(
        f"{_label(field[0].field)} {_common([_value(one.field, one.before) for one in field])} → "
        f"{_common([_value(one.field, one.after) for one in field])}{_back(field)}"
        for field in zip(*gpus, strict=True)
    )


def describe_counters(health: Health | None) -> str:
    """Describe the non-zero health counters of a GPU: "remapped rows (uncorrectable) 2"."""
    counts = ((field, getattr(health, field, None)) for field in HEALTH_LABELS if field in COUNTERS)
    return ", ".join(f"{_label(field)} {count:,}" for field, count in counts if count)


def fields_of(changes: Iterable[FieldChange]) -> tuple[str, ...]:
    """Return the names of the fields that were altered."""
    return tuple(change.field for change in changes)


def as_field_changes(changes: object) -> tuple[FieldChange, ...]:
    """Return the changes in an API row's `changes`, whose contents are not trusted."""
    if not isinstance(changes, Mapping):
        return ()
    return tuple(
        FieldChange(field, one.get("before"), one.get("after"))
        for field, one in changes.items()
        if isinstance(one, Mapping)
    )


def _described(change: FieldChange) -> str:
    field, old, new = change
    if field == "lost":
        return "stopped responding" if new else "responds again"
    if field in HEALTH_LABELS and new is None:
        return f"{_label(field)} {_value(field, old)}, no longer reported"
    if field in HEALTH_LABELS and old is None:
        return f"{_label(field)} {_value(field, new)}"
    return f"{_label(field)} {_value(field, old)} → {_value(field, new)}{_back([change])}"


def _label(field: str) -> str:
    label = FACT_LABELS.get(field) or HEALTH_LABELS.get(field, field)
    return label if label[1:3].lower() != label[1:3] else label[:1].lower() + label[1:]


def _value(field: str, value: object) -> str:
    if value is None:
        return "not reported"
    if isinstance(value, bool):
        return {False: "off", True: "on"}[value] if field == "mig" else {False: "no", True: "yes"}[value]
    return str(value)


def _back(field: Sequence[FieldChange]) -> str:
    """Note that a counter went back, which is not a recovery: a different InfoROM or driver counts differently."""
    return " (went back)" if any(one.went_back for one in field) else ""


def _common(values: Sequence[str]) -> str:
    return values[0] if all(value == values[0] for value in values) else _SEVERAL
