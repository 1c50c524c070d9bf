"""A GPU's health: wear and faults reported by `nvidia-smi -q -x`, and the action required."""

import functools
import itertools
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec

__all__ = [
    "COUNTERS",
    "GROWTH_WINDOW_SECONDS",
    "HEALTH_FIELDS",
    "KINDS_HELD",
    "ONLY_GROWING",
    "UNCORRECTABLE",
    "Condition",
    "Degradation",
    "Health",
    "Level",
    "degradations",
    "grew",
    "growth_follows",
    "health_object",
    "level",
    "of_card",
    "shared",
    "without",
    "worst_level",
]


class Health(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """A GPU's wear and faults as reported by the tool; None: not reported. Counts are lifetime counts."""

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
    ecc_sram_uncorrectable: int | None = None  # the sum, if the driver distinguishes parity and SEC-DED
    ecc_dram_correctable: int | None = None
    ecc_dram_uncorrectable: int | None = None
    sram_threshold_exceeded: bool | None = None
    channel_repair_pending: bool | None = None
    tpc_repair_pending: bool | None = None
    unrepairable_memory: bool | None = None
    recovery_action: str | None = None  # in the tool's words; "None" if no action is needed
    reset_required: bool | None = None  # also if reported instead of other values
    drain_and_reset_recommended: bool | None = None
    fabric_state: str | None = None
    fabric_status: str | None = None  # only of a completed registration
    fabric_health: str | None = None  # the summary, or its equivalent if a driver prints none
    inforom: str | None = None  # version of its image


KINDS_HELD = 8192  # shared health values: a fleet of healthy GPUs has few


@functools.lru_cache(maxsize=KINDS_HELD)
def shared(health: Health) -> Health:
    """Return a shared object for equal values, which would take hundreds of megabytes in a fleet."""
    return health


HEALTH_FIELDS = Health.__struct_fields__
_OF_PLACE = [field for field in HEALTH_FIELDS if field.startswith("fabric_")]  # of the switches and their manager


def of_card(health: Health | None) -> Health | None:
    """Return the part of a GPU's health that does not depend on its place."""
    return without(health, _OF_PLACE)


def without(health: Health | None, names: Iterable[str]) -> Health | None:
    """Return a health without some fields; None if nothing else is reported."""
    told = dict.fromkeys(name for name in names if getattr(health, name, None) is not None)
    if health is None or not told:
        return health
    left = msgspec.structs.replace(health, **told)
    return None if left == Health() else shared(left)


# Counts, which are insignificant while zero.
COUNTERS = frozenset(
    field for field in HEALTH_FIELDS if field.startswith(("remapped_", "retired_pages_", "ecc_", "row_remap_banks_"))
)
# Monotonic counts for the same card, InfoROM and driver. The others may fall as a card wears: a bank is in one class
# of the histogram at a time, and a remapping for a correctable error may give way to another.
ONLY_GROWING = COUNTERS - {"remapped_rows_correctable", "remapped_rows_inactive", "row_remap_banks_low"}
UNCORRECTABLE = ("ecc_sram_uncorrectable", "ecc_dram_uncorrectable")


class Level(StrEnum):
    """The action that a degraded GPU requires, worst first."""

    REPLACE = "replace"
    RESET = "reset"  # a reset of the GPU, or a drain and a reboot of its node


class Degradation(StrEnum):
    """Why a GPU is degraded: the closed set of the `reason` label, worst first.

    The basis of the levels, with the pages of NVIDIA listed below in brackets:

    row_remap_failure (replace): "the RMA criteria is met when the row-remapping failure flag is set and validated by
        the field diagnostic" [1].
    sram_threshold (replace): "Regarding SRAM uncorrectable errors, the RMA criteria is met" by what triggers the SRAM
        Threshold Exceeded flag [1].
    page_retirement_limit (replace): GPUs before Ampere retire 64 pages at most, and a number of them led to an
        investigation of an RMA [2]. DCGM fails a GPU from 63 on, the limit of the field diagnostic [3].
    lost (reset): Xid 79, GPU has fallen off the bus: restart the machine (RESTART_BM), and contact support if that does
        not help [4].
    uncorrectable_ecc_growing (reset): DCGM on a double-bit error: drain the GPU and reset it, or reboot the node [3].
        The window of seven days is ours; DCGM takes a week as well, where it judges how fast pages are retired.
    recovery_action (reset): None needs nothing; Reset, Reboot, Drain P2P, and Drain and Reset are steps for the GPU or
        its node [5]; newer drivers know more [6]. Also where the tool requires a reset, or recommends one.
    repair_pending (reset): a repair of a memory channel or of a TPC waits [7]. No page that we found says what for; we
        take it for a reset, as with row remapping. With memory that is unrepairable [8] it is "replace": DCGM fails
        the GPU [3], and nothing is left to be repaired.
    row_remap_pending (reset): "row-remapping will happen at the next GPU reset"; work on the GPU may continue [5].
        A bank that is to be remapped, which the drivers of Rubin report, is taken likewise.
    page_retirement_pending (reset): the driver must be loaded again to retire the page [9].
    fabric (reset): DCGM fails a GPU whose registration with the NVLink fabric has not started, failed or is not known,
        and one with a route, bandwidth or configuration that is not healthy [3]; of these the tool writes the summary,
        Healthy, Unhealthy or Limited Capacity [10]. The status counts only once the state is Completed [11], and
        then any but Success. DCGM merely warns of In Progress, in which a GPU of a shared NVSwitch stays until a
        partition is activated that has it [12]. A state Not Supported and N/A say nothing.

    [1] RMA Policy, https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/rma-policy-thresholds-for-row-remapping.html
    [2] Row Remapping, https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/row-remapping.html
    [3] DCGM, https://github.com/NVIDIA/DCGM: common/DcgmGPUHardwareLimits.h, dcgmlib/dcgm_errors.h,
        modules/health/DcgmHealthWatch.cpp
    [4] Analyzing Xid Errors with the Xid Catalog, https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html,
        as https://github.com/leptonai/gpud has it in components/accelerator/nvidia/xid/catalog_generated.go
    [5] Error Recovery and Response Flags,
        https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/error-recovery-and-response-flags.html
    [6] cuda.bindings.nvml.DeviceGpuRecoveryAction, https://nvidia.github.io/cuda-python/: Recover IMEX Domain, Bus
        Reset and System Reboot
    [7] nvmlRepairStatus_v1_t, https://docs.nvidia.com/deploy/nvml-api/structnvmlRepairStatus__v1__t.html
    [8] nvmlUnrepairableMemoryStatus_v1_t,
        https://docs.nvidia.com/deploy/nvml-api/structnvmlUnrepairableMemoryStatus__v1__t.html
    [9] Visibility, https://docs.nvidia.com/deploy/dynamic-page-retirement/visibility.html
    [10] Fabric definitions, https://docs.nvidia.com/deploy/nvml-api/api/group__nvmlFabricDefs.html
    [11] nvmlGpuFabricInfo_v3_t, https://docs.nvidia.com/deploy/nvml-api/api/structnvmlGpuFabricInfo__v3__t.html
    [12] NVIDIA's driver for Dynamic Resource Allocation,
        https://github.com/kubernetes-sigs/dra-driver-nvidia-gpu/pull/1289
    """

    ROW_REMAP_FAILURE = "row_remap_failure"
    SRAM_THRESHOLD = "sram_threshold"
    PAGE_RETIREMENT_LIMIT = "page_retirement_limit"
    LOST = "lost"
    UNCORRECTABLE_ECC_GROWING = "uncorrectable_ecc_growing"
    RECOVERY_ACTION = "recovery_action"
    REPAIR_PENDING = "repair_pending"
    ROW_REMAP_PENDING = "row_remap_pending"
    PAGE_RETIREMENT_PENDING = "page_retirement_pending"
    FABRIC = "fabric"


GROWTH_WINDOW_SECONDS = 7 * 86400.0  # for which uncorrectable errors count as growing after the last growth
RETIRED_PAGES_LIMIT = 63  # of both causes together

_REPLACE = frozenset({Degradation.ROW_REMAP_FAILURE, Degradation.SRAM_THRESHOLD, Degradation.PAGE_RETIREMENT_LIMIT})

# The tool's output when all is well or there is nothing to report; case is ignored. Any other word, even an unknown
# one, means trouble: a new word is more likely an action or fault than good health.
_UNSAID = frozenset({"", "n/a", "not supported"})
_NO_ACTION = _UNSAID | {"none"}
_FABRIC_STATES = _UNSAID | {"completed", "in progress"}
_FABRIC_STATUS = frozenset({"", "n/a", "success"})  # an error of the driver's library, also "Not Supported"
_FABRIC_HEALTH = _UNSAID | {"healthy"}


class Condition(NamedTuple):
    """Everything by which a GPU is judged."""

    health: Health | None
    lost: bool = False
    ecc_growth: float | None = None  # Unix seconds of the last reading with more uncorrectable errors than before
    read: float = 0.0  # Unix seconds of the last reading


def degradations(condition: Condition) -> tuple[Degradation, ...]:
    """Return why a GPU is degraded, worst first; empty for a healthy one and one that reports nothing."""
    health, lost, growth, read = condition
    found = () if health is None else _reported(health)
    if lost:
        found += (Degradation.LOST,)
    # In both directions: a clock that steps back does not end the window, and one far ahead does not keep it open.
    if growth is not None and abs(read - growth) < GROWTH_WINDOW_SECONDS:
        found += (Degradation.UNCORRECTABLE_ECC_GROWING,)
    return (
        tuple(sorted(found, key=lambda reason: _RANKS[level(reason, condition), reason])) if len(found) > 1 else found
    )


def grew(before: Health | None, after: Health | None) -> bool:
    """Return whether a GPU has more uncorrectable ECC errors than before, as far as both report them."""
    return any(
        (old := getattr(before, name, None)) is not None
        and (new := getattr(after, name, None)) is not None
        and new > old
        for name in UNCORRECTABLE
    )


def growth_follows(before: Health | None, after: Health | None) -> bool:
    """Return whether the growth of a card's uncorrectable ECC errors follows it to another cluster.

    `before` is its last known health at the former place, and `after` the first reading at the new one, which must
    confirm it: each count is reported again, none is less, and not all are zero. More errors in another cluster are
    not growth by themselves, since either cluster may report anything.
    """
    known = [name for name in UNCORRECTABLE if getattr(before, name, None) is not None]
    counts = [(getattr(before, name), getattr(after, name, None)) for name in known]
    return all(new is not None and new >= old for old, new in counts) and any(new for _, new in counts)


def level(reason: Degradation, condition: Condition) -> Level:
    """Return the action required by a reason."""
    if reason is Degradation.REPAIR_PENDING and condition.health is not None and condition.health.unrepairable_memory:
        return Level.REPLACE
    return Level.REPLACE if reason in _REPLACE else Level.RESET


def worst_level(condition: Condition) -> Level | None:
    """Return the action required by all reasons together; None for a GPU that is not degraded."""
    reasons = degradations(condition)
    return level(reasons[0], condition) if reasons else None


def health_object(health: Health | None) -> dict[str, str | int | bool] | None:
    """Return a GPU's health as a JSON object of the reported fields; None if there are none."""
    reported: dict[str, str | int | bool] = msgspec.to_builtins(health) or {}
    return reported or None


@functools.lru_cache(maxsize=KINDS_HELD)
def _reported(health: Health) -> tuple[Degradation, ...]:
    """Return the reasons in a GPU's own report."""
    retired = (health.retired_pages_single_bit or 0) + (health.retired_pages_double_bit or 0)
    reset = health.reset_required or health.drain_and_reset_recommended
    repair = health.channel_repair_pending or health.tpc_repair_pending or health.unrepairable_memory
    reasons = (
        (Degradation.ROW_REMAP_FAILURE, health.row_remap_failure),
        (Degradation.SRAM_THRESHOLD, health.sram_threshold_exceeded),
        (Degradation.PAGE_RETIREMENT_LIMIT, retired >= RETIRED_PAGES_LIMIT),
        (Degradation.RECOVERY_ACTION, reset or _says_more(health.recovery_action, _NO_ACTION)),
        (Degradation.REPAIR_PENDING, repair),
        (Degradation.ROW_REMAP_PENDING, health.row_remap_pending or health.bank_remap_pending),
        (Degradation.PAGE_RETIREMENT_PENDING, health.page_retirement_pending),
        (Degradation.FABRIC, _fabric_fails(health)),
    )
    return tuple(reason for reason, holds in reasons if holds)


def _fabric_fails(health: Health) -> bool:
    return (
        _says_more(health.fabric_state, _FABRIC_STATES)
        or _says_more(health.fabric_status, _FABRIC_STATUS)
        or _says_more(health.fabric_health, _FABRIC_HEALTH)
    )


def _says_more(text: str | None, fine: frozenset[str]) -> bool:
    """Return whether the tool reports something other than good health."""
    return text is not None and text.strip().casefold() not in fine


_RANKS = {pair: rank for rank, pair in enumerate(itertools.product(Level, Degradation))}
