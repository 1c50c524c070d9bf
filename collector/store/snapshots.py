"""Deflates nodes' snapshots for an SQLite file, which has one of every node; those of older versions are as they were.

They consist of the names of fields, and of values that are the same in most fleets. The dictionary has both.
"""

import zlib

__all__ = ["deflated", "inflated"]

DEFLATED = b"\1"  # the first byte; MessagePack's of a map, which a snapshot is, is not less than 0x80
MAX_BYTES = 64 << 20  # a damaged one could become much larger


def deflated(snapshot: bytes) -> bytes:
    """Return a snapshot as it is stored."""
    packer = _PACKER.copy()
    return DEFLATED + packer.compress(snapshot) + packer.flush()


def inflated(stored: bytes) -> bytes:
    """Return a stored snapshot, of this or an older version, as it was; raises ValueError if it is damaged."""
    if stored[:1] != DEFLATED:
        return stored
    unpacker = zlib.decompressobj(wbits=_WINDOW, zdict=_DICTIONARY)
    try:
        found = unpacker.decompress(memoryview(stored)[1:], MAX_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not unpacker.eof:
        raise ValueError("its end is missing")
    return found


# Never to be changed: what is in a store can be read only with the dictionary with which it was written.
_DICTIONARY = (
    b"\xa6claims\xa6unseen\xa6silent\xa7partial\xaalast_known\xacother_health\xaaecc_growth\xa7sharing\xa5model"
    b"\xb5NVIDIA A100-SXM4-80GB\xacarchitecture\xa6Ampere\xa5model\xabNVIDIA B200\xacarchitecture\xa9Blackwell\xa5"
    b"model\xacNVIDIA GB200\xabNVIDIA H200\xabNVIDIA L40S\xa7chassis\xa4tray\xa4slot\xa4host\xa6module\xa7virtual"
    b"\xafmulti_gpu_board\xde\x00\t\xa4node\x8b\xa4name\xa8gpu-node-\xa3uid\xa0\xabprovider_id\xbcaws:///us-east-1"
    b"a/i-gpu-node-\xa7boot_id\xa1b\xa8capacity\x08\xaballocatable\xc0\xaaadvertised\x92\xc0\xc0\xa5ready\xc3\xa6l"
    b"abels\x90\xa8gpu_sign\xa0\xa6listed\xc0\xaedriver_version\xaa570.148.08\xaccuda_version\xa412.8\xa6source"
    b"\xd91gpu-operator/nvidia-device-plugin-daemonset-\xabfingerprint\x87\xa7pod_uid\xa8gpu-node-\xaccontainer_id"
    b"\xa1c\xa8restarts\x00\xa7boot_id\xa1b\xa8capacity\x08\xaballocatable\xc0\xa6listed\xc0\xa4gpus\xde\x00\x0b"
    b"\xa4uuid\x98\xd9(GPU-\xa6serial\x98\xad165\xa5model\xb5NVIDIA H100 80GB HBM3\xacarchitecture\xa6Hopper\xa6mo"
    b"dule\x98\xa11\xa12\xa13\xa14\xa15\xa16\xa17\xa18\xaapci_bus_id\x98\xb000000000:19:00.0\xb000000000:3B:00.0"
    b"\xb000000000:4C:00.0\xb000000000:5D:00.0\xb000000000:9B:00.0\xb000000000:BB:00.0\xb000000000:CB:00.0\xb00000"
    b"0000:DB:00.0\xb1board_part_number\xb2692-2G520-0205-001\xafgpu_part_number\xab2330-885-A1\xacminor_number"
    b"\x98\x00\x01\x02\x03\x04\x05\x06\x07\xa5vbios\xae96.00.89.00.01\xa3mig\xc2\xa5since\x98\xcbA\xda9\xde\x00"
    b"\x00\x00\x00\xcbA\xda9\xde\x00\x00\x00\x00\xcbA\xda9\xde\x00\x00\x00\x00\xcbA\xda9\xde\x00\x00\x00\x00\xcbA"
    b"\xda9\xde\x00\x00\x00\x00\xcbA\xda9\xde\x00\x00\x00\x00\xcbA\xda9\xde\x00\x00\x00\x00\xcbA\xda9\xde\x00\x00"
    b"\x00\x00\xabhealth_read\xc3\xa6health\xde\x00\x0f\xb9remapped_rows_correctable\x00\xbbremapped_rows_uncorrec"
    b"table\x00\xb1row_remap_pending\xc2\xb1row_remap_failure\xc2\xb3row_remap_banks_low\x00\xb4row_remap_banks_no"
    b"ne\x00\xb4ecc_sram_correctable\x00\xb6ecc_sram_uncorrectable\x00\xb4ecc_dram_correctable\x00\xb6ecc_dram_unc"
    b"orrectable\x00\xb7sram_threshold_exceeded\xc2\xafrecovery_action\xa4None\xacfabric_state\xa9Completed\xadfab"
    b"ric_status\xa7Success\xa7inforom\xafG520.0200.00.05"
)
# There is neither zlib's header nor a code for each snapshot, which would make it 3 % smaller: a collector that starts
# inflates all of them, in a quarter of the time.
_WINDOW = -13  # bits, of which a snapshot needs no more; negative for no header
_PACKER = zlib.compressobj(wbits=_WINDOW, memLevel=4, strategy=zlib.Z_FIXED, zdict=_DICTIONARY)
