"""The elements of the XML of nvidia-smi that are read, and the fields of their texts."""

from typing import TypeAlias, cast

from collector.collect.smi_health import PATHS

__all__ = ["BLOCKS", "BLOCKS_OF_GPU", "FIELDS", "GPU_FIELDS", "WANTED", "WANTED_OF_GPU", "Verbatim", "Wanted"]

# The path of each element that is read, below the root, and the field that it fills.
FIELDS = {
    "driver_version": "driver_version",
    "kmd_version": "driver_version",  # replaces driver_version; version 13 of the format has both
    "cuda_version": "cuda_version",
    "cuda_umd_version": "cuda_version",
    "attached_gpus": "attached_gpus",
}
GPU_FIELDS = {
    "uuid": "uuid",
    "serial": "serial",
    "product_name": "model",
    "product_architecture": "architecture",
    "pci/pci_bus_id": "pci_bus_id",
    "board_part_number": "board_part_number",
    "gpu_part_number": "gpu_part_number",
    "minor_number": "minor_number",
    "multigpu_board": "multi_gpu_board",
    "vbios_version": "vbios",
    "mig_mode/current_mig": "mig",
    "gpu_virtualization_mode/virtualization_mode": "virtualization",
} | {
    f"{block}/{element}": field
    for block in ("platformInfo", "platform_info")
    for element, field in {
        "chassis_serial_number": "chassis",
        "slot_number": "slot",
        "chassis_physical_slot_number": "slot",
        "tray_index": "tray",
        "compute_slot_index": "tray",
        "host_id": "host",
        "node_index": "host",
        "module_id": "module",
    }.items()
}


class Verbatim(str):
    """The path of an element whose text is kept verbatim, if it is short enough to count."""

    __slots__ = ()


# By an element's name: its children, or the field that its own text fills, or under which path that is kept.
Wanted: TypeAlias = "dict[str, Wanted | str | Verbatim]"


def _wanted(leaves: dict[str, str]) -> Wanted:
    root: Wanted = {}
    for path, leaf in leaves.items():
        *above, name = path.split("/")
        inside = root
        for one in above:
            inside = cast("Wanted", inside.setdefault(one, {}))
        inside[name] = leaf
    return root


WANTED = _wanted(FIELDS)
WANTED_OF_GPU = _wanted(GPU_FIELDS | {path: Verbatim(path) for path in PATHS})
BLOCKS, BLOCKS_OF_GPU = tuple(WANTED), tuple(WANTED_OF_GPU)
