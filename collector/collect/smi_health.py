"""Reads the health of a GPU from its part of the XML of `nvidia-smi -q -x`.

The elements differ by driver and by GPU generation; the manual of nvidia-smi describes them. Observed in outputs of
drivers 418 to 615:

- ECC errors are counted over the card's life in <aggregate>, since the driver was loaded in <volatile>, which is not
  read. Turing has one count of uncorrectable errors in SRAM, newer GPUs have two (parity, SEC-DED). GPUs before Turing
  have the tables <single_bit> (corrected) and <double_bit> (not corrected) instead. Their <total> is the sum of
  <device_memory>, which is DRAM, and of the memories on the chip, so the rest is what later drivers call SRAM.
- Retired pages (to Turing) and remapped rows (from Ampere on) exclude each other; the block of the other is "N/A", as a
  whole or in every value. Drivers that print both <pending_blacklist> and <pending_retirement> mean the same.
- Driver 580.173 has the inactive remapped rows, driver 615 remapped banks.
- <gpu_reset_status> became <gpu_recovery_action> in driver 570, where its values are "deprecated".
- <fabric> has had its <health> since driver 570, and a <summary> of that since 580. Where there is none, it is made
  from the rest as NVIDIA's mock of NVML does (k8s-test-infra): a fault of routes or of the configuration, or recovery
  from one, is "Unhealthy", only less bandwidth "Limited Capacity".

A value counts only if the tool can produce it: numbers of up to 15 digits, Yes and No, short printable ASCII texts.
Everything else is unknown, and so None: a node's output is not trusted.
"""

import functools
import re
from typing import Any

from collector.collect.smi_values import GPU_LOST, RESET_REQUIRED, is_absent, is_certain
from collector.health import Health, shared

__all__ = ["MAX_LENGTH", "PATHS", "build_health", "keep_certain"]

MAX_LENGTH = 40  # characters of a text that counts
_BUILT = 4096  # sets of values whose Health is cached: most GPUs of a fleet report the same ones

_COUNT = re.compile(r"([0-9]{1,15})(?: (?:bank|group)\(s\))?")
_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._,:()/&'-]*")
_NO_ACTION = "none"
_FLAGS = {"Yes": True, "No": False, "True": True, "False": False}

_ECC, _AGGREGATE = "ecc_errors", "ecc_errors/aggregate"
_RETIRED, _ROWS, _BANKS = "retired_pages", "remapped_rows", "remapped_banks"
_HISTOGRAM = f"{_ROWS}/row_remapper_histogram/row_remapper_histogram"
_FABRIC_STATE, _FABRIC_STATUS, _FABRIC_HEALTH = "fabric/state", "fabric/status", "fabric/health"

# For each count, the elements whose sum it is; of several forms, the first counts whose elements all have a number.
_COUNTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "remapped_rows_correctable": ((f"{_ROWS}/remapped_row_corr",),),
    "remapped_rows_uncorrectable": ((f"{_ROWS}/remapped_row_unc",),),
    "remapped_rows_inactive": ((f"{_ROWS}/remapped_row_corr_inactive", f"{_ROWS}/remapped_row_unc_inactive"),),
    "row_remap_banks_low": ((f"{_HISTOGRAM}_low",),),
    "row_remap_banks_none": ((f"{_HISTOGRAM}_none",),),
    "remapped_banks": ((f"{_BANKS}/bank_remapper_active_remappings", f"{_BANKS}/bank_remapper_inactive_remappings"),),
    "retired_pages_single_bit": ((f"{_RETIRED}/multiple_single_bit_retirement/retired_count",),),
    "retired_pages_double_bit": ((f"{_RETIRED}/double_bit_retirement/retired_count",),),
    "ecc_sram_correctable": ((f"{_AGGREGATE}/sram_correctable",),),
    "ecc_sram_uncorrectable": (
        (f"{_AGGREGATE}/sram_uncorrectable",),
        (f"{_AGGREGATE}/sram_uncorrectable_parity", f"{_AGGREGATE}/sram_uncorrectable_secded"),
    ),
    "ecc_dram_correctable": ((f"{_AGGREGATE}/dram_correctable",), (f"{_AGGREGATE}/single_bit/device_memory",)),
    "ecc_dram_uncorrectable": ((f"{_AGGREGATE}/dram_uncorrectable",), (f"{_AGGREGATE}/double_bit/device_memory",)),
}

# For what is left of the sum in an old table without its device memory: the field, and the table.
_ON_CHIP = {
    "ecc_sram_correctable": f"{_AGGREGATE}/single_bit",
    "ecc_sram_uncorrectable": f"{_AGGREGATE}/double_bit",
}

# For each flag, the elements of which one may say Yes.
_FLAG_ELEMENTS: dict[str, tuple[str, ...]] = {
    "row_remap_pending": (f"{_ROWS}/remapped_row_pending",),
    "row_remap_failure": (f"{_ROWS}/remapped_row_failure",),
    "bank_remap_pending": (f"{_BANKS}/bank_remapper_pending",),
    "page_retirement_pending": (f"{_RETIRED}/pending_retirement", f"{_RETIRED}/pending_blacklist"),
    "sram_threshold_exceeded": (f"{_AGGREGATE}/sram_threshold_exceeded",),
    "channel_repair_pending": (f"{_ECC}/channel_repair_pending",),
    "tpc_repair_pending": (f"{_ECC}/tpc_repair_pending",),
    "unrepairable_memory": (f"{_ECC}/unrepairable_memory",),
    "reset_required": ("gpu_reset_status/reset_required",),
    "drain_and_reset_recommended": ("gpu_reset_status/drain_and_reset_recommended",),
}

# For each text, its element, and what is a value of it, though it means elsewhere that there is none.
_TEXTS: dict[str, tuple[str, frozenset[str]]] = {
    "recovery_action": ("gpu_recovery_action", frozenset({"none", "reset required"})),
    "fabric_state": (_FABRIC_STATE, frozenset()),
    "fabric_health": (f"{_FABRIC_HEALTH}/summary", frozenset()),
    "inforom": ("inforom_version/img_version", frozenset()),
}

_NO_STATUS = frozenset(text.casefold() for text in ("N/A", "None", "Null", "Redacted", GPU_LOST, RESET_REQUIRED))

_BANDWIDTH, _CONFIGURATION = f"{_FABRIC_HEALTH}/bandwidth", f"{_FABRIC_HEALTH}/incorrect_configuration"
_CONFIGURATION_FAULTS = frozenset({"insufficient nvlinks"})
_FABRIC_FAULTS = tuple(
    f"{_FABRIC_HEALTH}/{element}"
    for element in ("route_recovery_in_progress", "route_unhealthy", "access_timeout_recovery")
)

# The paths of the elements that are read, within the part of one GPU.
_ALL = (
    *(path for forms in _COUNTS.values() for form in forms for path in form),
    *(f"{table}/{element}" for table in _ON_CHIP.values() for element in ("device_memory", "total")),
    *(path for paths in _FLAG_ELEMENTS.values() for path in paths),
    *(path for path, _ in _TEXTS.values()),
    *(_FABRIC_STATUS, _BANDWIDTH, _CONFIGURATION, *_FABRIC_FAULTS),
)
PATHS = tuple(dict.fromkeys(_ALL))  # some are in several forms


def keep_certain(said: dict[str, str], text: bytes) -> None:
    """Drop ambiguous values of a damaged text: each element must occur once in the only block of its name.

    The same names occur in several blocks: lifetime counts have the names of those since the last start.
    """
    blocks: dict[str, bytes | None] = {"": text}
    for path, value in list(said.items()):
        *above, name = path.split("/")
        block = _block(text, above, blocks)
        if block is None or not is_certain(value.strip(), name, block):
            del said[path]


def _block(text: bytes, above: list[str], blocks: dict[str, bytes | None]) -> bytes | None:
    """Return the text between the tags of nested elements, each of which must be unique; None if one is not."""
    path = "/".join(above)
    if path not in blocks:
        outside = _block(text, above[:-1], blocks)
        start, end = f"<{above[-1]}>".encode(), f"</{above[-1]}>".encode()
        if outside is None or outside.count(start) != 1 or outside.count(end) != 1:
            blocks[path] = None
        else:
            blocks[path] = outside[outside.index(start) : outside.index(end)]
    return blocks[path]


def build_health(said: dict[str, str], *, lost: bool = False, reset: bool = False) -> Health | None:
    """Return the health of a GPU from its elements, by their paths; None if nothing is known.

    For a GPU lost by the driver, only problems count: other values are outdated, if not made up. `reset` means that it
    requires a reset, as reported instead of any of its values.
    """
    return _build(tuple(said.items()), lost, reset) if said or reset else None


@functools.lru_cache(maxsize=_BUILT)
def _build(items: tuple[tuple[str, str], ...], lost: bool, reset: bool) -> Health | None:
    said = {path: text.strip() for path, text in items}
    counts: dict[str, Any] = {field: _count(said, field) for field in _COUNTS}
    flags: dict[str, Any] = {field: _flag(said, *paths) for field, paths in _FLAG_ELEMENTS.items()}
    texts: dict[str, Any] = {field: _text(said, path, values) for field, (path, values) in _TEXTS.items()}
    texts["fabric_health"] = texts["fabric_health"] or _fabric_health(said)
    texts["fabric_status"] = _fabric_status(said)
    if reset:
        flags["reset_required"] = True
    if lost:
        counts = {}
        flags = {field: flag for field, flag in flags.items() if flag}
        action = texts["recovery_action"] or _NO_ACTION
        texts = {} if action.casefold() == _NO_ACTION else {"recovery_action": action}
    health = Health(**counts, **flags, **texts)
    return None if health == Health() else shared(health)


def _count(said: dict[str, str], field: str) -> int | None:
    for paths in _COUNTS[field]:
        total = 0
        for path in paths:
            if (text := said.get(path)) is None or (number := _number(text)) is None:
                break
            total += number
        else:
            return total
    if (table := _ON_CHIP.get(field)) is not None and (text := said.get(f"{table}/total")) is not None:
        memory, all_places = _number(said.get(f"{table}/device_memory", "")), _number(text)
        if memory is not None and all_places is not None and all_places >= memory:
            return all_places - memory
    return None


@functools.lru_cache(maxsize=1024)
def _number(text: str) -> int | None:
    number = _COUNT.fullmatch(text)
    return int(number[1]) if number is not None else None


def _flag(said: dict[str, str], *paths: str) -> bool | None:
    found = None
    for path in paths:
        if (flag := _FLAGS.get(said.get(path, ""))) is not None:
            found = flag or found or False
    return found


def _text(said: dict[str, str], path: str, values: frozenset[str] = frozenset()) -> str | None:
    text = said.get(path)
    return text if text is not None and _is_text(text, values) else None


@functools.lru_cache(maxsize=1024)
def _is_text(text: str, values: frozenset[str]) -> bool:
    if len(text) > MAX_LENGTH or not _TEXT.fullmatch(text):
        return False
    return not is_absent(text) or text.lower() in values


def _fabric_status(said: dict[str, str]) -> str | None:
    """Return the status of the GPU's registration with its fabric: Success, or an error of the driver's library.

    It is meaningful once the registration is completed. One of the errors is "Unknown Error", which means elsewhere
    that there is no value.
    """
    if said.get(_FABRIC_STATE, "").casefold() != "completed":
        return None
    text = said.get(_FABRIC_STATUS, "")
    known = len(text) <= MAX_LENGTH and _TEXT.fullmatch(text) and text.casefold() not in _NO_STATUS
    return text if known else None


def _fabric_health(said: dict[str, str]) -> str | None:
    """Return the summary of the fabric's health, if the driver prints none."""
    bandwidth, fault = said.get(_BANDWIDTH), _flag(said, *_FABRIC_FAULTS)
    if fault or _text(said, _CONFIGURATION, _CONFIGURATION_FAULTS) is not None:
        return "Unhealthy"
    if bandwidth == "Degraded":
        return "Limited Capacity"
    return "Healthy" if bandwidth == "Full" or fault is False else None
