"""Renders the output of `nvidia-smi -q -x` for the GPUs of one host."""

import functools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from collector.health import Health
from collector.simulator.driver_forms import DEFAULT_FORMS, DRIVER_FORMS, health_lines
from collector.simulator.fleet import MODELS, VIRTUAL_MODEL, Card
from collector.simulator.wear import NEW

__all__ = ["Printed", "driver_version", "render", "run"]

_GB200_VERSION = "570.158.01"  # the drivers of H100 machines of that generation are others
_WORN_TEMPLATES = 512  # that are kept, one for each kind, form and wear

_MIG_DEVICES = "\n\t\t\t".join(
    f"<mig_device>\n\t\t\t\t<index>{index}</index>\n\t\t\t\t<gpu_instance_id>{index + 1}</gpu_instance_id>\n"
    "\t\t\t\t<compute_instance_id>0</compute_instance_id>\n\t\t\t\t<device_attributes>\n\t\t\t\t\t<shared>\n"
    "\t\t\t\t\t\t<multiprocessor_count>60</multiprocessor_count>\n\t\t\t\t\t</shared>\n\t\t\t\t</device_attributes>\n"
    "\t\t\t</mig_device>"
    for index in range(2)
)

_KINDS: dict[str, dict[str, str]] = {
    "h100": {
        "architecture": "Hopper", "addressing": "None", "vbios": "96.00.89.00.01", "part": "692-2G520-0205-001",
        "gpu_part": "2330-885-A1", "peer": "N/A", "guid_element": "", "c2c": "Disabled",
        "device_id": "233010DE", "sub_system_id": "16C110DE", "generation": "5", "memory": "81559 MiB",
        "reserved": "551 MiB", "free": "81007 MiB", "bar1": "131072 MiB", "bar1_used": "1 MiB",
        "bar1_free": "131071 MiB", "banks": "2560", "draw": "power_draw=112.60 W", "limit": "700.00 W",
        "memory_draw": "power_draw=46.20 W", "module_draw": "power_draw=N/A", "module_limit": "N/A",
        "module_minimum": "N/A", "clock": "1980 MHz", "memory_clock": "2619 MHz", "video_clock": "1545 MHz",
        "clique": "0", "fabric": "00000000-0000-0000-0000-000000000000", "bandwidth": "N/A", "recovery": "N/A",
        "atomics": "FETCHADD_32 FETCHADD_64 SWAP_32 SWAP_64 CAS_32 CAS_64 ",
    },
    "gb200": {
        "architecture": "Blackwell", "addressing": "ATS", "vbios": "97.00.82.00.18", "part": "699-2G548-0201-800",
        "gpu_part": "2941-886-A1", "peer": "Switch Connected", "guid_element": "gpu_fabric_guid={guid}",
        "c2c": "Enabled", "device_id": "294110DE", "sub_system_id": "204610DE",
        "generation": "6", "memory": "189471 MiB", "reserved": "795 MiB", "free": "188676 MiB", "bar1": "262144 MiB",
        "bar1_used": "3 MiB", "bar1_free": "262141 MiB", "banks": "3968",
        "draw": "average_power_draw=186.40 W; instant_power_draw=187.12 W", "limit": "1200.00 W",
        "memory_draw": "average_power_draw=31.00 W; instant_power_draw=N/A",
        "module_draw": "average_power_draw=402.80 W; instant_power_draw=402.80 W", "module_limit": "2500.00 W",
        "module_minimum": "500.00 W", "clock": "2062 MHz", "memory_clock": "3996 MHz", "video_clock": "1890 MHz",
        "clique": "32766", "fabric": "5a0c1f7e-8d2b-4c96-9e31-70b4d8f26a15", "bandwidth": "Full",
        "recovery": "False", "atomics": "N/A",
    },
}  # fmt: skip
_KINDS["v100"] = _KINDS["h100"] | {
    "architecture": "Volta", "vbios": "88.00.80.00.01", "part": "900-2G503-0010-000", "gpu_part": "1DB5-896-A1",
    "device_id": "1DB510DE", "sub_system_id": "124910DE", "generation": "3", "memory": "32768 MiB",
    "reserved": "265 MiB", "free": "32502 MiB", "bar1": "32768 MiB", "bar1_used": "2 MiB", "bar1_free": "32766 MiB",
    "draw": "power_draw=42.40 W", "limit": "300.00 W", "clock": "1530 MHz", "memory_clock": "877 MHz",
    "video_clock": "1372 MHz", "clique": "N/A", "fabric": "N/A",
}  # fmt: skip

_PLATFORM = (
    "platformInfo: chassis_serial_number={chassis}; slot_number={slot}; tray_index={tray}; host_id={host}",
    "platformInfo: peer_type={peer}; module_id={module}; {guid_element}",
)
_NO_PLATFORM = (": gpu_module_id={module}",)

# One line per block, in the order of the tool; a line with @ stands for those of a driver's form.
_OUTLINE = """
: product_name={product}; product_brand=NVIDIA; product_architecture={architecture}; display_mode=Enabled
: display_active=Disabled; persistence_mode=Enabled; addressing_mode={addressing}
mig_mode: current_mig={mig}; pending_mig={mig}
mig_devices: {mig_devices}
: accounting_mode=Disabled; accounting_mode_buffer_size=4000
driver_model: current_dm=N/A; pending_dm=N/A
: serial={serial}; uuid={uuid}; minor_number={index}; vbios_version={vbios}
: multigpu_board={several}; board_id={board_id}
: board_part_number={part}; gpu_part_number={gpu_part}; gpu_fru_part_number=N/A
@platform
inforom_version: img_version={inforom}; oem_object=2.1; ecc_object=7.16; pwr_object=N/A
inforom_bbx_flush: latest_timestamp=2026/01/15 08:21:33.507; latest_duration=41230 us
gpu_operation_mode: current_gom=N/A; pending_gom=N/A
: c2c_mode={c2c}
gpu_virtualization_mode: virtualization_mode={virtualization}; host_vgpu_mode=N/A; vgpu_heterogeneous_mode=N/A
@reset
: gsp_firmware_version={driver}
ibmnpu: relaxed_ordering_mode=N/A
pci: pci_bus={bus}; pci_device=00; pci_domain={domain}; pci_base_class=3; pci_sub_class=2; pci_device_id={device_id}
pci: pci_bus_id={bus_id}; pci_sub_system_id={sub_system_id}
pci/pci_gpu_link_info/pcie_gen: max_link_gen=5; current_link_gen=5; device_current_link_gen=5
pci/pci_gpu_link_info/pcie_gen: max_device_link_gen={generation}; max_host_link_gen=N/A
pci/pci_gpu_link_info/link_widths: max_link_width=16x; current_link_width=16x
pci/pci_bridge_chip: bridge_chip_type=N/A; bridge_chip_fw=N/A
pci: replay_counter=0; replay_rollover_counter=0; tx_util=412 KB/s; rx_util=388 KB/s
pci: atomic_caps_outbound={atomics}; atomic_caps_inbound={atomics}
: fan_speed=N/A; performance_state=P0
clocks_event_reasons: clocks_event_reason_gpu_idle=Active
clocks_event_reasons: clocks_event_reason_applications_clocks_setting=Not Active
clocks_event_reasons: clocks_event_reason_sw_power_cap=Not Active; clocks_event_reason_hw_slowdown=Not Active
clocks_event_reasons: clocks_event_reason_hw_thermal_slowdown=Not Active
clocks_event_reasons: clocks_event_reason_hw_power_brake_slowdown=Not Active
clocks_event_reasons: clocks_event_reason_sync_boost=Not Active
clocks_event_reasons: clocks_event_reason_sw_thermal_slowdown=Not Active
clocks_event_reasons: clocks_event_reason_display_clocks_setting=Not Active
: sparse_operation_mode=N/A
fb_memory_usage: total={memory}; reserved={reserved}; used=1 MiB; free={free}
bar1_memory_usage: total={bar1}; used={bar1_used}; free={bar1_free}
cc_protected_memory_usage: total=0 MiB; used=0 MiB; free=0 MiB
: compute_mode=Default
utilization: gpu_util=0 %; memory_util=0 %; encoder_util=0 %; decoder_util=0 %; jpeg_util=0 %; ofa_util=0 %
encoder_stats: session_count=0; average_fps=0; average_latency=0
fbc_stats: session_count=0; average_fps=0; average_latency=0
dram_encryption_mode: current_dram_encryption=N/A; pending_dram_encryption=N/A
ecc_mode: current_ecc=Enabled; pending_ecc=Enabled
@ecc
@retired
@remapped
temperature: gpu_temp={temperature} C; gpu_temp_tlimit=54 C; gpu_temp_max_tlimit_threshold=-8 C
temperature: gpu_temp_slow_tlimit_threshold=-2 C; gpu_temp_max_gpu_tlimit_threshold=0 C; gpu_target_temperature=N/A
temperature: memory_temp=38 C; gpu_temp_max_mem_tlimit_threshold=0 C
supported_gpu_target_temp: gpu_target_temp_min=N/A; gpu_target_temp_max=N/A
gpu_power_readings: power_state=P0; {draw}
gpu_power_readings: current_power_limit={limit}; requested_power_limit={limit}; default_power_limit={limit}
gpu_power_readings: min_power_limit=200.00 W; max_power_limit={limit}
gpu_memory_power_readings: {memory_draw}
module_power_readings: power_state=P0; {module_draw}
module_power_readings: current_power_limit={module_limit}; requested_power_limit={module_limit}
module_power_readings: default_power_limit={module_limit}; min_power_limit={module_minimum}
module_power_readings: max_power_limit={module_limit}
: power_smoothing=N/A
power_profiles: power_profile_requested_profiles=N/A; power_profile_enforced_profiles=N/A
clocks: graphics_clock=345 MHz; sm_clock=345 MHz; mem_clock={memory_clock}; video_clock=765 MHz
applications_clocks: graphics_clock={clock}; mem_clock={memory_clock}
default_applications_clocks: graphics_clock={clock}; mem_clock={memory_clock}
deferred_clocks: mem_clock=N/A
max_clocks: graphics_clock={clock}; sm_clock={clock}; mem_clock={memory_clock}; video_clock={video_clock}
max_customer_boost_clocks: graphics_clock={clock}
clock_policy: auto_boost=N/A; auto_boost_default=N/A
voltage: graphics_volt=N/A
@fabric
processes: {processes}
accounted_processes:
capabilities: egm=disabled
"""


class Printed(NamedTuple):
    """The output of one run of nvidia-smi, and its exit status."""

    stdout: bytes
    exit_status: int = 0


def driver_version(kind: str, form: str) -> str:
    """Return the driver version for a form and a kind of machine."""
    return _GB200_VERSION if (kind, form) == ("gb200", "570") else DRIVER_FORMS[form].version


def run(kind: str, cards: Sequence[Card], options: Sequence[str], now: float, form: str | None = None) -> Printed:
    """Return the output of `nvidia-smi -q -x` on a host; of the options, `-i` is honoured.

    A GPU for which the driver gives no handle ends it, unless another one is asked for.
    """
    wanted = next((options[at + 1] for at, option in enumerate(options[:-1]) if option in ("-i", "--id")), None)
    chosen = [card for index, card in enumerate(cards) if wanted is None or _is_meant(wanted, card, index)]
    if not chosen:
        return Printed(b"No devices were found\n", 6)
    for index, card in enumerate(cards):
        if card.silent and card in chosen:
            text = f"Unable to determine the device handle for GPU{index}: {card.bus_id[4:]}: Unknown Error\n"
            return Printed(text.encode(), 255)
    return Printed(render(kind, chosen, now, attached=len(cards), form=form))


def _is_meant(wanted: str, card: Card, index: int) -> bool:
    return wanted.upper() in (str(index), card.uuid.upper(), card.bus_id, card.bus_id[4:], card.serial)


def render(
    kind: str, cards: Sequence[Card], now: float, *, attached: int | None = None, form: str | None = None
) -> bytes:
    """Return the document for a host of `kind` with `cards`; `now` (Unix seconds) is printed as UTC.

    `form` (a key of DRIVER_FORMS) is that of its driver, by default the usual one of its kind.
    """
    form = form or DEFAULT_FORMS[kind]
    head = (
        f'<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v{DRIVER_FORMS[form].schema}.dtd">\n'
        "<nvidia_smi_log>\n"
        f"\t<timestamp>{time.strftime('%a %b %e %H:%M:%S %Y', time.gmtime(now))}</timestamp>\n"
        f"{_versions(kind, form)}"
        f"\t<attached_gpus>{len(cards) if attached is None else attached}</attached_gpus>\n"
    )
    gpus = [_gpu(card, form) for card in cards]
    return "".join([head, *gpus, "</nvidia_smi_log>\n"]).encode("utf-8", "surrogateescape")


@functools.cache
def _versions(kind: str, form: str) -> str:
    told = []
    for old, new, version in (
        ("driver_version", "kmd_version", driver_version(kind, form)),
        ("cuda_version", "cuda_umd_version", DRIVER_FORMS[form].cuda),
    ):
        told.append(f"<{old}>{version}</{old}>")
        if DRIVER_FORMS[form].names:
            told.append(f"<!-- {old} is deprecated and will be removed in CUDA 14.0; use {new} instead -->")
            told.append(f"<{new}>{version}</{new}>")
    return "".join(f"\t{line}\n" for line in told)


def _gpu(card: Card, form: str) -> str:
    domain, bus, _ = card.bus_id.split(":")
    if card.lost:
        return _lost_gpu(card.kind, form).replace("{bus_id}", card.bus_id)
    values = {
        "bus_id": card.bus_id,
        "bus": bus,
        "domain": domain[4:],
        "board_id": f"0x{int(domain[4:] + bus, 16) << 8:x}",
        "serial": card.serial or "N/A",
        "uuid": card.uuid,
        "index": str(card.minor),
        "chassis": card.chassis or "N/A",
        "slot": card.slot or "N/A",
        "tray": card.tray or "N/A",
        "host": card.host or "N/A",
        "module": str(card.module),
        "guid": card.fabric_guid,
        "mig": "Enabled" if card.mig else "Disabled",
        "mig_devices": _MIG_DEVICES if card.mig else "None",
        "temperature": str(29 + card.minor % 5),
        "product": VIRTUAL_MODEL if card.virtual else MODELS[card.kind],
        "virtualization": "VGPU" if card.virtual else "Pass-Through",
        "several": "Yes" if card.shares_board else "No",
        "processes": _process(card.process) if card.process else "",
    }
    # The template is split at its placeholders once, so that a GPU costs one join.
    texts, names = _pieces(card.kind, form) if card.health is None else _worn_pieces(card.kind, form, card.health)
    parts = [""] * (len(texts) + len(names))
    parts[::2] = texts
    parts[1::2] = [values[name] for name in names]
    return "".join(parts)


def _process(name: bytes) -> str:
    """Return a process; its name is printed verbatim, as nvidia-smi does."""
    return (
        "<process_info>\n\t\t\t\t<gpu_instance_id>N/A</gpu_instance_id>\n"
        "\t\t\t\t<compute_instance_id>N/A</compute_instance_id>\n\t\t\t\t<pid>4711</pid>\n\t\t\t\t<type>C</type>\n"
        f"\t\t\t\t<process_name>{name.decode('utf-8', 'surrogateescape')}</process_name>\n"
        "\t\t\t\t<used_memory>512 MiB</used_memory>\n\t\t\t</process_info>"
    )


@functools.cache
def _pieces(kind: str, form: str) -> tuple[list[str], list[str]]:
    return _split(_template(kind, form, NEW[kind]))


@functools.lru_cache(maxsize=_WORN_TEMPLATES)
def _worn_pieces(kind: str, form: str, health: Health) -> tuple[list[str], list[str]]:
    return _split(_template(kind, form, health))


def _split(template: str) -> tuple[list[str], list[str]]:
    pieces = re.split(r"\{(\w+)\}", template)
    return pieces[::2], pieces[1::2]


@functools.cache
def _lost_gpu(kind: str, form: str) -> str:
    template = _template(kind, form, NEW[kind])
    bare = template.replace("\n\t\t\t{mig_devices}", "").replace("\n\t\t\t{processes}", "")
    return re.sub(r">[^<>\n]+</", ">GPU is lost</", bare)


def _template(kind: str, form: str, health: Health) -> str:
    values = _KINDS[kind] | {"driver": driver_version(kind, form), "inforom": health.inforom or "N/A"}
    printed = DRIVER_FORMS[form]
    blocks = health_lines(printed, health, int(values["banks"]))
    blocks["platform"] = list(_PLATFORM if printed.platform else _NO_PLATFORM)
    lines = [
        told
        for line in _OUTLINE.strip().splitlines()
        for told in (blocks[line[1:]] if line.startswith("@") else [line])
    ]
    return "\n".join(['\t<gpu id="{bus_id}">', *_elements(_fill("\n".join(lines), values)), "\t</gpu>\n\n"])


def _fill(outline: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), outline)


def _elements(outline: str) -> Iterator[str]:
    """Yield `block/inner: name=value; …` lines as indented elements; a block stays open while lines name it."""
    opened: list[str] = []
    for line in outline.strip().splitlines():
        path, _, leaves = line.strip().partition(":")
        wanted = [block for block in path.split("/") if block]
        while opened != wanted[: len(opened)]:
            block = opened.pop()
            yield "\t" * (len(opened) + 2) + f"</{block}>"
        for block in wanted[len(opened) :]:
            yield "\t" * (len(opened) + 2) + f"<{block}>"
            opened.append(block)
        for leaf in filter(None, (leaf.strip() for leaf in leaves.split(";"))):
            name, is_element, value = leaf.partition("=")
            yield "\t" * (len(opened) + 2) + (f"<{name}>{value}</{name}>" if is_element else name)
    while opened:
        block = opened.pop()
        yield "\t" * (len(opened) + 2) + f"</{block}>"
