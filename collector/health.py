"""How a GPU is: what `nvidia-smi -q -x` reports of its wear and faults, and what that means for whoever runs it."""

import functools
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

import msgspec

__all__ = [
    "COUNTERS",
    "HEALTH_FIELDS",
    "LEVELS",
    "Condition",
    "Degradation",
    "Health",
    "Level",
    "degradations",
    "health_object",
    "shared",
    "worst_level",
]


class Health(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What the tool reports of a GPU's wear and faults; None: it does not say. Counts are over the card's life."""

    remapped_rows_correctable: int | None = None
    remapped_rows_uncorrectable: int | None = None
    remapped_rows_inactive: int | None = None  # for either cause
    row_remap_pending: bool | None = None
    row_remap_failure: bool | None = None
    row_remap_banks_low: int | None = None  # memory banks with few spare rows left
    row_remap_banks_none: int | None = None  # memory banks with no spare row left
    remapped_banks: int | None = None  # whole memory banks, active and inactive; Rubin's driver 615 prints them
    bank_remap_pending: bool | None = None
    retired_pages_single_bit: int | None = None
    retired_pages_double_bit: int | None = None
    page_retirement_pending: bool | None = None
    ecc_sram_correctable: int | None = None
    ecc_sram_uncorrectable: int | None = None  # the sum, where the driver tells parity from SEC-DED
    ecc_dram_correctable: int | None = None
    ecc_dram_uncorrectable: int | None = None
    sram_threshold_exceeded: bool | None = None
    channel_repair_pending: bool | None = None
    tpc_repair_pending: bool | None = None
    unrepairable_memory: bool | None = None
    recovery_action: str | None = None  # as the tool writes it; "None" where nothing is to be done
    reset_required: bool | None = None  # also where it is said in place of other values
    drain_and_reset_recommended: bool | None = None
    fabric_state: str | None = None
    fabric_status: str | None = None
    fabric_health: str | None = None  # the summary, or what it would be where a driver prints none
    inforom: str | None = None  # version of its image


KINDS_HELD = 8192  # values of health that are held once: a fleet of healthy GPUs has few


@functools.lru_cache(maxsize=KINDS_HELD)
def shared(health: Health) -> Health:
    """Return one object for all equal ones: a fleet's GPUs would have hundreds of megabytes of equal values."""
    return health


HEALTH_FIELDS = Health.__struct_fields__

# What only ever grows while a card, its InfoROM and its driver stay the same.
COUNTERS = frozenset(
    field for field in HEALTH_FIELDS if field.startswith(("remapped_", "retired_pages_", "ecc_", "row_remap_banks_"))
)


class Level(StrEnum):
    """What is to be done about a degraded GPU."""

    RESET = "reset"  # a reset of the GPU, or a drain and a reboot of its node
    REPLACE = "replace"


class Degradation(StrEnum):
    """Why a GPU is degraded: the closed set of the `reason` label, the worst first."""

    LOST = "lost"
    ROW_REMAP_FAILURE = "row_remap_failure"
    SRAM_THRESHOLD = "sram_threshold"
    UNCORRECTABLE_ECC_GROWING = "uncorrectable_ecc_growing"
    ROW_REMAP_PENDING = "row_remap_pending"
    PAGE_RETIREMENT_PENDING = "page_retirement_pending"
    REPAIR_PENDING = "repair_pending"
    RECOVERY_ACTION = "recovery_action"
    FABRIC = "fabric"


LEVELS = MappingProxyType(
    {
        Degradation.LOST: Level.RESET,
        Degradation.ROW_REMAP_FAILURE: Level.REPLACE,
        Degradation.SRAM_THRESHOLD: Level.REPLACE,
        Degradation.UNCORRECTABLE_ECC_GROWING: Level.RESET,
        Degradation.ROW_REMAP_PENDING: Level.RESET,
        Degradation.PAGE_RETIREMENT_PENDING: Level.RESET,
        Degradation.REPAIR_PENDING: Level.RESET,
        Degradation.RECOVERY_ACTION: Level.RESET,
        Degradation.FABRIC: Level.RESET,
    }
)

GROWTH_WINDOW_SECONDS = 7 * 86400.0  # for which a GPU counts as growing uncorrectable errors after the last growth


class Condition(NamedTuple):
    """All that a GPU is judged by."""

    health: Health | None
    lost: bool = False
    ecc_growth: float | None = None  # Unix seconds of the last reading with more uncorrectable errors than one before
    read: float = 0.0  # Unix seconds of the last reading


def degradations(condition: Condition) -> tuple[Degradation, ...]:
    """Return why a GPU is degraded, the worst first; nothing for a healthy one, and for one that reports nothing."""
    health, lost, growth, read = condition
    found = [Degradation.LOST] if lost else []
    if health is None:
        return tuple(found)
    if health.row_remap_failure:
        found.append(Degradation.ROW_REMAP_FAILURE)
    if health.sram_threshold_exceeded:
        found.append(Degradation.SRAM_THRESHOLD)
    if growth is not None and read - growth < GROWTH_WINDOW_SECONDS:
        found.append(Degradation.UNCORRECTABLE_ECC_GROWING)
    if health.row_remap_pending:
        found.append(Degradation.ROW_REMAP_PENDING)
    if health.page_retirement_pending:
        found.append(Degradation.PAGE_RETIREMENT_PENDING)
    if health.channel_repair_pending or health.tpc_repair_pending or health.unrepairable_memory:
        found.append(Degradation.REPAIR_PENDING)
    if health.reset_required or health.drain_and_reset_recommended or health.recovery_action not in (None, "None"):
        found.append(Degradation.RECOVERY_ACTION)
    if health.fabric_health == "Unhealthy":
        found.append(Degradation.FABRIC)
    return tuple(found)


def worst_level(condition: Condition) -> Level | None:
    """Return what is to be done about a GPU, all its reasons taken together; None for one that is not degraded."""
    levels = [LEVELS[reason] for reason in degradations(condition)]
    return max(levels, key=list(Level).index, default=None)


def health_object(health: Health | None) -> dict[str, str | int | bool] | None:
    """Return what a GPU reports of its health as JSON has it everywhere: the reported fields; None for none."""
    reported: dict[str, str | int | bool] = msgspec.to_builtins(health) or {}
    return reported or None
