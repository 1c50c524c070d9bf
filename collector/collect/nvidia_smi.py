"""Parses the XML output of `nvidia-smi -q -x`.

The format is the tool's own (`nvsmi_device_v*.dtd`, which the output names but NVIDIA does not ship); the fields of
the platform block are named as in nvmlPlatformInfo_t of NVIDIA's NVML reference, versions 1 and 2, and the modes of
virtualization as in its nvmlGpuVirtualizationMode_t.

The document comes from a node and is not trusted. `collector.collect.smi_output` strips unread elements and the
prolog. Most of what is left is exactly as the tool prints it, and read without an XML parser
(`collector.collect.smi_regular`); lxml parses all others, with limits on their size. If one is not well-formed, it is
repaired, and only unambiguous values are read.
"""

import re
import sys
from typing import Any

import msgspec
from lxml import etree

from collector.collect.smi_elements import FIELDS, GPU_FIELDS
from collector.collect.smi_health import build_health, keep_certain
from collector.collect.smi_output import (
    ROOT,
    BadOutputError,
    ContestedOutputError,
    Document,
    entity_error,
    find_certain_part,
    find_document,
    lost_gpus,
    split_gpus,
)
from collector.collect.smi_regular import read_regular
from collector.collect.smi_tree import (
    GpuValues,
    Values,
    has_placeholders,
    parse_xml,
    read_document,
    read_gpu,
    read_root,
)
from collector.collect.smi_values import is_certain
from collector.model import Gpu, GpuRef, UnidentifiedGpu, canonical_bus_id, canonical_uuid
from collector.text import counted, one_line

__all__ = ["MAX_OUTPUT_BYTES", "BadOutputError", "Report", "parse"]

# A GPU takes 12 to 45 kB, most of it supported clocks, so a node of 16 prints up to 700 kB: ten times that.
MAX_OUTPUT_BYTES = 8 << 20

_MAX_TAGS = 250_000  # in the parsed part; 16 GPUs have 15,000, and each takes 200 bytes of memory
_UNCOUNTED_BYTES = 4 * _MAX_TAGS  # of a document that cannot have more: no element or attribute is shorter than 4
_MAX_REPAIRED_BYTES = 1 << 20  # of a stripped document; 16 GPUs have 300 kB, and repairing is slow
_MAX_REASON_LENGTH = 120  # characters of the XML parser's own message

# Fields in which all zeros mean "none"; slot 0, tray 0 and minor number 0 are real.
_IDENTIFIERS = frozenset({"uuid", "serial", "chassis", "board_part_number", "gpu_part_number"})
_UNIQUE_FIELDS = frozenset({"uuid", "serial"})

# Fields of a guest's vGPU that may be those of the host's board, never to be attributed to the guest.
_BOARD_FIELDS = frozenset({"serial", "chassis", "slot", "tray", "host", "module", "board_part_number"})
_TELLING_FIELDS = frozenset({"uuid", "virtualization"})  # without which a damaged GPU could be mistaken for another one
_MODE_TAG = b"<virtualization_mode>"
_MODE = re.compile(rb"<virtualization_mode>[^<]*</virtualization_mode>")
_VIRTUAL = "vgpu"  # the mode inside a guest; "Host VGPU" and "Host VSGA" are boards divided by their host

_ALL_ZEROS = re.compile(r"(?:GPU-|0x)?[0-]+", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,9}")
_ATTACHED = re.compile(rb"<attached_gpus>\s*([0-9]{1,9})\s*</attached_gpus>")
_MIG_MODES = {"Enabled": True, "Disabled": False}

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # characters not allowed in XML
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)[A-Za-z_][\w.-]*;")
_BARE_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]+|#x[0-9A-Fa-f]+);)")
_CHARACTER_REFERENCE = re.compile(r"&#(?:([0-9]+)|x([0-9A-Fa-f]+));")


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The report of one run of the tool; unknown values are None."""

    driver_version: str | None
    cuda_version: str | None
    gpus: tuple[Gpu, ...]  # no UUID twice; none of those in `lost`
    unidentified: tuple[UnidentifiedGpu, ...] = ()  # GPUs without a UUID, such as those lost by the driver
    lost: tuple[GpuRef, ...] = ()  # GPUs that do not respond, as far as the tool names them
    unread: tuple[GpuRef, ...] = ()  # GPUs whose part of the output is damaged
    partial: bool = False  # it lists fewer GPUs than are attached
    contested: bool = False  # process names may imitate GPUs, so only the part before them was read
    attached: int | None = None  # GPUs of a contested output, as far as reported

    @property
    def named(self) -> int:
        """The number of GPUs named, including unresponsive ones."""
        listed = [GpuRef.of(gpu) for gpu in self.unidentified]
        silent = [ref for ref in self.lost if ref not in listed and not any(ref.means(gpu) for gpu in self.gpus)]
        return len(self.gpus) + len(listed) + len(silent) + len(self.unread)


def parse(output: bytes, warnings: list[str] | None = None, *, said: bytes = b"", first_only: bool = False) -> Report:
    """Return the report of the first document of an output; raises BadOutputError.

    Unread parts have no effect, whatever they contain: text around the document and between its parts, processes,
    accounted processes, supported clocks, other elements. Values with unreadable characters are absent, and GPUs whose
    part is damaged further are in `unread`. Repairs are added to `warnings`. `said` is other output of the tool, which
    may name a GPU that does not respond.

    If process names may imitate GPUs, only the first GPU is read, which is printed before them; likewise with
    `first_only`, for the output of a command that reads one GPU.

    Documents are rejected if they are cut off, have entities, too many parts, more GPUs than they report as attached,
    or no complete GPU. A GPU lost by the driver does not affect the others.
    """
    contest: ContestedOutputError | None = None
    if not first_only:
        try:
            return _read_report(find_document(output), said, warnings)
        except ContestedOutputError as error:
            contest = error
    try:
        document = find_certain_part(output)
    except BadOutputError:
        if contest is not None:
            raise contest from None
        return _read_report(find_document(output), said, warnings)
    report = _read_report(document, said, warnings)
    if contest is None:
        return report
    if warnings is not None:
        warnings.append(f"reading only the first GPU of the output: {contest}")
    attached = _ATTACHED.search(document.content)
    return msgspec.structs.replace(report, contested=True, attached=int(attached[1]) if attached else None)


def _read_report(document: Document, said: bytes, warnings: list[str] | None) -> Report:
    document = document._replace(around=document.around + b"\n" + said)
    content = document.content
    if len(content) > _UNCOUNTED_BYTES and max(content.count(b"<"), content.count(b"=")) > _MAX_TAGS:
        raise BadOutputError(f"more than {_MAX_TAGS} elements or attributes")
    try:
        values = read_regular(document) or _read_xml(document)
    except etree.XMLSyntaxError as error:
        report = _repair(document, error)
    else:
        report = _build_report(values, document.warnings)
    if warnings is not None:
        warnings += document.warnings
    return report


def _read_xml(document: Document) -> Values:
    return read_document(parse_xml(document.content), document.around, placeholders=has_placeholders(document.content))


# Malformed documents


def _repair(document: Document, error: etree.XMLSyntaxError) -> Report:
    """Return the report of a malformed document; raises BadOutputError if it has no complete GPU.

    Characters not allowed in XML are replaced first, which makes most documents well-formed. If that is not enough,
    each GPU is parsed separately, and a value counts only if it occurs in the text exactly once, as parsed.
    """
    reason = one_line(error.msg, _MAX_REASON_LENGTH)
    if len(document.content) > _MAX_REPAIRED_BYTES:
        raise BadOutputError(f"not the XML of nvidia-smi, and too large to repair: {reason}") from error
    text = _FORBIDDEN.sub(_REPLACEMENT, document.content.decode("utf-8", "replace"))
    if _ENTITY.search(text):
        raise entity_error() from error
    content = _CHARACTER_REFERENCE.sub(_referenced, _BARE_AMPERSAND.sub("&amp;", text)).encode()
    placeholders = has_placeholders(content)
    try:
        values = read_document(parse_xml(content), document.around, placeholders=placeholders)
    except etree.XMLSyntaxError as second:
        error = second
        values = _read_parts(content, document.around, placeholders=placeholders)
    for gpu in values.gpus:
        for field in [field for field, value in gpu.fields.items() if _REPLACEMENT in value]:
            del gpu.fields[field]
            document.warnings.append(f"unreadable characters in the {field} of a GPU")
            gpu.whole = gpu.whole and field not in _TELLING_FIELDS
        gpu.health = {path: text for path, text in gpu.health.items() if _REPLACEMENT not in text}
    values.fields = {field: value for field, value in values.fields.items() if _REPLACEMENT not in value}
    if values.gpus and not any(gpu.whole for gpu in values.gpus):
        raise BadOutputError(f"not the XML of nvidia-smi: {reason}") from error
    document.warnings.append(f"repaired the XML: {reason}")
    return _build_report(values, document.warnings)


def _referenced(reference: re.Match[str]) -> str:
    """Return a character reference unchanged, or the replacement character for one not allowed in XML."""
    decimal, hexadecimal = reference.groups()
    digits = (decimal or hexadecimal).lstrip("0")
    if len(digits) > len("1114111"):
        return _REPLACEMENT
    code = int(digits or "0", 10 if decimal else 16)
    allowed = code <= sys.maxunicode and not 0xD800 <= code <= 0xDFFF and not _FORBIDDEN.match(chr(code))
    return reference[0] if allowed else _REPLACEMENT


def _read_parts(content: bytes, around: bytes, *, placeholders: bool) -> Values:
    """Return the unambiguous values of a damaged document."""
    head, parts = split_gpus(content)
    values = Values(around)
    root = parse_xml(head, recover=True)
    if root.tag == ROOT:
        read_root(root, values.fields)
        _keep_certain(values.fields, FIELDS, head)
    for part in parts:
        end = part.rfind(b"</gpu>")
        values.add_text(part[end + len(b"</gpu>") :].decode("utf-8", "replace") if end >= 0 else None)
        values.add_gpu(
            _read_part(part[: end + len(b"</gpu>")] if end >= 0 else part, end >= 0, placeholders=placeholders)
        )
    return values


def _read_part(part: bytes, complete: bool, *, placeholders: bool) -> GpuValues:
    """Return the values of one GPU; incomplete without an end or an unambiguous UUID."""
    try:
        return read_gpu(parse_xml(part), placeholders=placeholders)
    except etree.XMLSyntaxError:
        values = read_gpu(parse_xml(part, recover=True), placeholders=placeholders)
    _keep_certain(values.fields, GPU_FIELDS, part)
    keep_certain(values.health, part)
    # A possibly virtual GPU must not pass for a board.
    told = part.count(_MODE_TAG) == len(_MODE.findall(part)) <= 1
    values.whole = complete and "uuid" in values.fields and told
    return values


def _keep_certain(values: dict[str, str], fields: dict[str, str], text: bytes) -> None:
    """Drop values that do not occur in a text exactly once, between their tags."""
    for path, field in fields.items():
        name = path.rpartition("/")[2]
        if field in values and f"<{name}>".encode() in text and not is_certain(values[field], name, text):
            del values[field]


# From values to GPUs


def _build_report(values: Values, warnings: list[str]) -> Report:
    attached = values.fields.get("attached_gpus")
    if not values.gpus and attached != "0":
        raise BadOutputError("no GPU in the output, though it does not report that none is attached")
    gpus: dict[str, Gpu] = {}
    unidentified: list[UnidentifiedGpu] = []
    lost: dict[GpuRef, None] = {}
    unread: list[GpuRef] = []
    for found in values.gpus:
        if not found.whole:
            unread.append(_reference(found))
            continue
        gpu = _build_gpu(found)
        if isinstance(gpu, Gpu):
            gpus.setdefault(gpu.uuid, gpu)
        else:
            unidentified.append(gpu)
        if found.lost and (ref := GpuRef.of(gpu)) != GpuRef():
            lost[ref] = None
    listed = len(gpus) + len(unidentified) + len(unread)
    named = _named_lost(values.said, [*gpus.values(), *unidentified])
    lost |= dict.fromkeys(ref for ref in named if ref.pci_bus_id)
    return Report(
        driver_version=_interned(values.fields.get("driver_version")),
        cuda_version=_interned(values.fields.get("cuda_version")),
        gpus=tuple(gpus.values()),
        unidentified=tuple(unidentified),
        lost=tuple(lost),
        unread=tuple(unread),
        partial=_is_partial(attached, listed, named, warnings),
    )


def _reference(values: GpuValues) -> GpuRef:
    bus = values.fields.get("pci_bus_id")
    uuid = values.fields.get("uuid")
    return GpuRef(canonical_uuid(uuid) if uuid else None, canonical_bus_id(bus) if bus else None)


def _named_lost(said: bytes, listed: list[Gpu | UnidentifiedGpu]) -> tuple[GpuRef, ...]:
    """Return the GPUs that the tool could not reach, except those that it lists anyway."""
    if not (named := lost_gpus(said)):
        return ()
    buses = {canonical_bus_id(gpu.pci_bus_id) for gpu in listed if gpu.pci_bus_id}
    return tuple(ref for ref in named if ref.pci_bus_id not in buses)


def _is_partial(attached: str | None, listed: int, named: tuple[GpuRef, ...], warnings: list[str]) -> bool:
    """Return whether a document is missing GPUs without naming any; raises BadOutputError for too many GPUs.

    Excess GPUs may come from the name of a process that imitates one.
    """
    if attached is None or not _NUMBER.fullmatch(attached):
        return bool(named) and named[0].pci_bus_id is None
    if listed > int(attached):
        raise ContestedOutputError(f"{counted(listed, 'GPU')} in the output, which reports {attached} as attached")
    if listed + sum(ref.pci_bus_id is not None for ref in named) >= int(attached):
        return False
    warnings.append(f"{counted(listed, 'GPU')} in the output, which reports {attached} as attached")
    return True


def _interned(text: str | None) -> str | None:
    return None if text is None else sys.intern(text)


def _build_gpu(values: GpuValues) -> Gpu | UnidentifiedGpu:
    # Apart from uuid and serial, values repeat across the fleet: keep one copy of each in memory.
    texts: dict[str, Any] = {
        field: text if field in _UNIQUE_FIELDS else sys.intern(text)
        for field, text in values.fields.items()
        if not (field in _IDENTIFIERS and _ALL_ZEROS.fullmatch(text))
    }
    virtual = texts.pop("virtualization", "").lower() == _VIRTUAL
    if virtual:
        texts = {field: text for field, text in texts.items() if field not in _BOARD_FIELDS}
    uuid, minor, mig = texts.pop("uuid", None), texts.pop("minor_number", None), texts.pop("mig", None)
    several = texts.pop("multi_gpu_board", "") == "Yes"
    if uuid is None:
        return UnidentifiedGpu(**{field: texts.get(field) for field in UnidentifiedGpu.__struct_fields__})
    health = build_health(values.health, lost=values.lost, reset=values.reset)
    return Gpu(
        uuid=canonical_uuid(uuid),
        minor_number=int(minor) if minor is not None and _NUMBER.fullmatch(minor) else None,
        mig=_MIG_MODES.get(mig or ""),
        virtual=virtual,
        multi_gpu_board=several and not virtual,
        health=None if virtual else health,  # a guest's value is not that of its board
        **texts,
    )
