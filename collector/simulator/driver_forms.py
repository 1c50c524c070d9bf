"""How drivers print the health of a GPU: the elements of `nvidia-smi -q -x`, from 418 to 610.

What is written here comes from outputs of real GPUs, which influxdata/telegraf and NVIDIA/k8s-test-infra publish:
drivers 418.43, 515.105, 525.125, 535.54, 570.148, 580.105, 580.173, 595.91 and 615.23.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from collector.health import Health

__all__ = ["DEFAULT_FORMS", "DRIVER_FORMS", "DriverForm", "health_lines"]


class DriverForm(NamedTuple):
    """The output of one driver generation; each includes that of earlier ones, except `resets` and `deprecated`."""

    version: str
    cuda: str
    schema: int  # of the document type
    names: bool = False  # says kmd_version and cuda_umd_version as well
    platform: bool = True  # has the platform block: chassis, slot and tray
    resets: bool = False  # says whether a reset is required
    deprecated: bool = False  # says that saying so is deprecated
    action: bool = False  # recommends a recovery action
    remaps: bool = True  # knows of remapped rows
    histogram: bool = True  # and of what is left to remap, by bank
    split: bool = False  # tells parity errors of SRAM from those that SEC-DED found, and has a threshold
    fabric: bool = True
    routes: bool = False  # says how the GPU's way into the fabric is
    repairs: bool = False  # knows of pending repairs, of inactive remappings, and sums up the fabric's health


DRIVER_FORMS: Mapping[str, DriverForm] = MappingProxyType(
    {
        "418": DriverForm("418.43", "10.1", 10, platform=False, remaps=False, histogram=False, fabric=False),
        "450": DriverForm("450.248.02", "11.0", 11, platform=False, histogram=False, fabric=False),
        "535": DriverForm("535.54.03", "12.2", 12, platform=False, resets=True),
        "570": DriverForm("570.124.06", "12.8", 12, deprecated=True, action=True, split=True, routes=True),
        "580": DriverForm("580.173.02", "13.0", 13, action=True, split=True, routes=True, repairs=True),
        "610": DriverForm("615.23", "13.4", 13, names=True, action=True, split=True, routes=True, repairs=True),
    }
)
DEFAULT_FORMS = MappingProxyType({"h100": "570", "gb200": "570", "v100": "450"})

_DEPRECATED = "Requested functionality has been deprecated"
_TABLE = (
    "register_file",
    "l1_cache",
    "texture_memory",
    "texture_shm",
    "cbu",
)  # other than memory and the cache that counts


def health_lines(form: DriverForm, card: Health, banks: int) -> dict[str, list[str]]:
    """Return the lines of the outline with a card's health, by their place in it; `banks` of memory can remap rows.

    Cards before Ampere, which retire pages, count errors by where they were.
    """
    old = card.retired_pages_double_bit is not None
    return {
        "reset": list(_reset(form, card)),
        "ecc": list(_old_ecc(card) if old else _ecc(form, card)),
        "retired": list(_retired(form, card, old=old)),
        "remapped": list(_remapped(form, card, old=old, banks=banks)),
        "fabric": list(_fabric(form, card)),
    }


def _reset(form: DriverForm, card: Health) -> Iterator[str]:
    if form.deprecated:
        yield f"gpu_reset_status: reset_required={_DEPRECATED}; drain_and_reset_recommended={_DEPRECATED}"
    elif form.resets:
        required, drain = _yes(card.reset_required), _yes(card.drain_and_reset_recommended)
        yield f"gpu_reset_status: reset_required={required}; drain_and_reset_recommended={drain}"
    if form.action:
        yield f": gpu_recovery_action={card.recovery_action}"


def _ecc(form: DriverForm, card: Health) -> Iterator[str]:
    for block, health in (("volatile", Health()), ("aggregate", card)):
        sram = health.ecc_sram_uncorrectable or 0
        told = f"sram_uncorrectable={sram}"
        if form.split:
            told = f"sram_uncorrectable_parity={sram // 3}; sram_uncorrectable_secded={sram - sram // 3}"
        yield f"ecc_errors/{block}: sram_correctable={health.ecc_sram_correctable or 0}; {told}"
        correctable, uncorrectable = health.ecc_dram_correctable or 0, health.ecc_dram_uncorrectable or 0
        yield f"ecc_errors/{block}: dram_correctable={correctable}; dram_uncorrectable={uncorrectable}"
    if form.split:
        yield f"ecc_errors/aggregate: sram_threshold_exceeded={_yes(card.sram_threshold_exceeded)}"
        sources = "ecc_errors/aggregate_uncorrectable_sram_sources"
        yield f"{sources}: sram_l2={card.ecc_sram_uncorrectable}; sram_sm=0; sram_microcontroller=0"
        yield f"{sources}: sram_pcie=0; sram_other=0"
    if form.repairs:
        channel, tpc = _yes(card.channel_repair_pending), _yes(card.tpc_repair_pending)
        yield f"ecc_errors: channel_repair_pending={channel}; tpc_repair_pending={tpc}"
        yield f"ecc_errors: unrepairable_memory={_yes(card.unrepairable_memory)}"


def _old_ecc(card: Health) -> Iterator[str]:
    for block, health in (("volatile", Health()), ("aggregate", card)):
        for table, memory, cache in (
            ("single_bit", health.ecc_dram_correctable or 0, health.ecc_sram_correctable or 0),
            ("double_bit", health.ecc_dram_uncorrectable or 0, health.ecc_sram_uncorrectable or 0),
        ):
            others = "; ".join(f"{where}=0" for where in _TABLE)
            total = f"total={memory + cache}"
            yield f"ecc_errors/{block}/{table}: device_memory={memory}; l2_cache={cache}; {others}; {total}"


def _retired(form: DriverForm, card: Health, *, old: bool) -> Iterator[str]:
    for cause, count in (
        ("multiple_single_bit_retirement", card.retired_pages_single_bit),
        ("double_bit_retirement", card.retired_pages_double_bit),
    ):
        pages = f"retired_count={count}; retired_pagelist=" if old else "retired_count=N/A; retired_pagelist=N/A"
        yield f"retired_pages/{cause}: {pages}"
    pending = _yes(card.page_retirement_pending) if old else "N/A"
    if form.remaps:
        yield f"retired_pages: pending_blacklist={pending}"
    yield f"retired_pages: pending_retirement={pending}"


def _remapped(form: DriverForm, card: Health, *, old: bool, banks: int) -> Iterator[str]:
    if not form.remaps:
        return
    if old:
        yield ": remapped_rows=N/A"
        return
    inactive = (" remapped_row_corr_inactive=0;", f" remapped_row_unc_inactive={card.remapped_rows_inactive};")
    corr, unc = inactive if form.repairs else ("", "")
    yield f"remapped_rows: remapped_row_corr={card.remapped_rows_correctable};{corr}"
    yield f"remapped_rows: remapped_row_unc={card.remapped_rows_uncorrectable};{unc}"
    pending, failure = _yes(card.row_remap_pending), _yes(card.row_remap_failure)
    yield f"remapped_rows: remapped_row_pending={pending}; remapped_row_failure={failure}"
    if form.histogram:
        low, none = card.row_remap_banks_low or 0, card.row_remap_banks_none or 0
        left = {"max": max(0, banks - low - none), "high": 0, "partial": 0, "low": low, "none": none}
        for spare, count in left.items():
            yield f"remapped_rows/row_remapper_histogram: row_remapper_histogram_{spare}={count} bank(s)"
    if form.names:
        active = f"bank_remapper_active_remappings={card.remapped_banks}; bank_remapper_inactive_remappings=0"
        yield f"remapped_banks: {active}; bank_remapper_pending={_yes(card.bank_remap_pending)}"


def _fabric(form: DriverForm, card: Health) -> Iterator[str]:
    if not form.fabric:
        return
    yield f"fabric: state={card.fabric_state or 'N/A'}; status={card.fabric_status or 'N/A'}"
    if not form.routes:
        return
    yield "fabric: cliqueId={clique}; clusterUuid={fabric}"
    routes = "N/A" if card.fabric_health is None else str(card.fabric_health == "Unhealthy")
    if form.repairs:
        yield f"fabric/health: summary={card.fabric_health or 'N/A'}"
    yield "fabric/health: bandwidth={bandwidth}; route_recovery_in_progress={recovery}"
    yield f"fabric/health: route_unhealthy={routes}; access_timeout_recovery={{recovery}}"
    if form.repairs:
        yield "fabric/health: incorrect_configuration=N/A; partition_assigned=N/A"


def _yes(flag: bool | None) -> str:
    return "Yes" if flag else "No"
