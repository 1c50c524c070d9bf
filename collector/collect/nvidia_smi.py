"""Parse the XML that `nvidia-smi -q -x` prints.

The format is the tool's own (`nvsmi_device_v*.dtd`, which the output names but NVIDIA does not ship); the fields of
the platform block are named as in nvmlPlatformInfo_t of NVIDIA's NVML reference, versions 1 and 2.

expat's handlers limit what is read while it is read, which a parser that returns a tree cannot: the document comes from
a node and is not trusted.
"""

import re
import sys
from xml.parsers import expat

import msgspec

from collector.model import Gpu, GpuidError, UnidentifiedGpu, canonical_uuid

__all__ = ["MAX_OUTPUT_BYTES", "BadOutputError", "Report", "parse"]

MAX_OUTPUT_BYTES = 64 << 20

_MAX_DEPTH = 32  # levels of nested elements; the tool uses 6
_MAX_GPUS = 256  # in one node; the largest machines have 16
_MAX_VALUE_LENGTH = 128  # characters
_MAX_REASON_LENGTH = 120  # characters of the XML parser's own message

_ROOT = "nvidia_smi_log"

# The path of each element that is read, below the root, and the field that it fills.
_FIELDS = {
    "driver_version": "driver_version",
    "kmd_version": "driver_version",  # replaces driver_version; version 13 of the format has both
    "cuda_version": "cuda_version",
    "cuda_umd_version": "cuda_version",
    "attached_gpus": "attached_gpus",
    "gpu/uuid": "uuid",
    "gpu/serial": "serial",
    "gpu/product_name": "model",
    "gpu/product_architecture": "architecture",
    "gpu/pci/pci_bus_id": "pci_bus_id",
    "gpu/board_part_number": "board_part_number",
    "gpu/gpu_part_number": "gpu_part_number",
    "gpu/minor_number": "minor_number",
    "gpu/vbios_version": "vbios",
    "gpu/mig_mode/current_mig": "mig",
} | {
    f"gpu/{block}/{element}": field
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

# Fields in which all zeros mean "none"; slot 0, tray 0 and minor number 0 are real.
_IDENTIFIERS = frozenset({"uuid", "serial", "chassis", "board_part_number", "gpu_part_number"})
_UNIQUE_FIELDS = frozenset({"uuid", "serial"})

# What the tool prints in place of a value.
_ABSENT = re.compile(
    r"\[?(?:|-|n/a|none|null|unknown|unknown error(?: \(\d+\))?|err!|error|no access|no data|timeout|uninitialized"
    r"|(?:.* )?not (?:available|supported|found|ready)|driver not loaded|corrupted inforom|gpu is lost|reset required"
    r"|gpu requires reset|insufficient \w+|(?:requested functionality has been )?deprecated|gpu access blocked.*"
    r"|unable to .*|.*redacted.*|[x*#?]+(?:-[x*#?]+)*)\]?",
    re.IGNORECASE,
)
_ALL_ZEROS = re.compile(r"(?:GPU-|0x)?[0-]+", re.IGNORECASE)
_MINOR_NUMBER = re.compile(r"[0-9]{1,9}")
_MIG_MODES = {"Enabled": True, "Disabled": False}

_MARKUP_LINE = re.compile(rb"^(?:\xef\xbb\xbf)?[ \t]*<", re.MULTILINE)  # the start of a line that is markup, not text


class BadOutputError(GpuidError):
    """The text is not the output of `nvidia-smi -q -x`, or is incomplete."""


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one run of the tool reports; a value that the tool does not know is None."""

    driver_version: str | None
    cuda_version: str | None
    gpus: tuple[Gpu, ...]  # no UUID twice
    unidentified: tuple[UnidentifiedGpu, ...] = ()  # GPUs without a UUID, such as those that the driver has lost


def parse(output: bytes) -> Report:
    """Return what one complete document reports; raises BadOutputError.

    Lines of text around the document are skipped: the tool prints warnings, such as that of a corrupted infoROM, to
    standard output. The document comes from a node and is not trusted: entities are refused, the DTD is never loaded,
    and depth, number and length of what is read are limited. A GPU that the driver has lost has few values or none
    and does not spoil the others.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.EntityDeclHandler = _refuse_entity
    parser.SkippedEntityHandler = _refuse_entity
    reader = _Reader(parser)
    begin = _MARKUP_LINE.search(output)
    document = output[begin.end() - 1 :] if begin else output.lstrip(b" \t\r\n")
    try:
        parser.Parse(document, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # an unknown encoding is a ValueError or LookupError
        # Text after the document is an error to expat, reported at its first word: `rest` is all that follows the
        # last element. A document that ended before may be followed by text, but by no more markup.
        rest = document[document.rfind(b">", 0, parser.ErrorByteIndex) + 1 :]
        if not reader.complete or _MARKUP_LINE.search(rest):
            raise BadOutputError(f"not the XML of nvidia-smi: {str(error)[:_MAX_REASON_LENGTH]}") from error
    return _build_report(reader.root_values, reader.gpu_values)


def _refuse_entity(*_declaration: object) -> None:
    raise BadOutputError("the XML declares or uses an entity, which nvidia-smi never does")


class _Element(dict[str, "_Element"]):
    """The elements to read inside an element, by name; `field` is the field that its own text fills, if any."""

    field = ""


def _element_tree() -> _Element:
    root = _Element(gpu=_Element())
    for path, field in _FIELDS.items():
        element = root
        for name in path.split("/"):
            element = element.setdefault(name, _Element())
        element.field = field
    return root


_ROOT_ELEMENT = _element_tree()
_GPU_ELEMENT = _ROOT_ELEMENT["gpu"]
_DOCUMENT = _Element({_ROOT: _ROOT_ELEMENT})
_UNREAD = _Element()  # stands for every element that is not read


class _Reader:
    """Collects the elements to read while expat walks the document.

    A node prints 2,000 elements, of which 150 are read: parsing costs what `_start_element` and `_end_element` do for
    the others. The handler for text is set only while text is wanted.
    """

    __slots__ = ("_field", "_open", "_parser", "_text", "_values", "complete", "gpu_values", "root_values")

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.complete = False  # whether the root element has ended
        self.root_values: dict[str, str] = {}  # by field
        self.gpu_values: list[dict[str, str]] = []  # one for each <gpu>, with its attribute `id`
        self._parser = parser
        self._open = [_DOCUMENT]  # the elements around the current position, the innermost last
        self._field = ""  # the field that the current text fills
        self._text = ""
        self._values = self.root_values  # the values that the current element belongs to
        parser.StartElementHandler = self._start_element
        parser.EndElementHandler = self._end_element

    def _start_element(self, name: str, attributes: dict[str, str]) -> None:
        opened = self._open
        element = opened[-1].get(name, _UNREAD)
        opened.append(element)
        if self._field:  # text with elements inside is not a value
            self._stop_reading()
        if element is _UNREAD:
            if len(opened) == 2:
                raise BadOutputError(f"not the XML of nvidia-smi: the root element is {name[:40]}, expected {_ROOT}")
            if len(opened) > _MAX_DEPTH:
                raise BadOutputError(f"elements nested deeper than {_MAX_DEPTH}")
        elif element.field:
            self._field, self._text = element.field, ""
            self._parser.CharacterDataHandler = self._character_data
        elif element is _GPU_ELEMENT:
            if len(self.gpu_values) == _MAX_GPUS:
                raise BadOutputError(f"more than {_MAX_GPUS} GPUs in one node")
            self._values = {"id": attributes.get("id", "")[: _MAX_VALUE_LENGTH + 1]}
            self.gpu_values.append(self._values)

    def _character_data(self, text: str) -> None:
        if len(self._text) <= _MAX_VALUE_LENGTH:
            self._text += text

    def _end_element(self, _name: str) -> None:
        element = self._open.pop()
        if element is _UNREAD:
            return
        if self._field:
            text = self._text.strip()
            if len(text) <= _MAX_VALUE_LENGTH and not _ABSENT.fullmatch(text):
                self._values.setdefault(self._field, text)
            self._stop_reading()
        elif element is _GPU_ELEMENT:
            self._values = self.root_values
        elif element is _ROOT_ELEMENT:
            self.complete = True

    def _stop_reading(self) -> None:
        self._field, self._parser.CharacterDataHandler = "", None


def _build_report(root_values: dict[str, str], gpu_values: list[dict[str, str]]) -> Report:
    if not gpu_values and root_values.get("attached_gpus") != "0":
        raise BadOutputError("no GPU in the output, which does not report that none is attached")
    gpus: dict[str, Gpu] = {}
    unidentified: list[UnidentifiedGpu] = []
    for values in gpu_values:
        gpu = _build_gpu(values)
        if isinstance(gpu, Gpu):
            gpus.setdefault(gpu.uuid, gpu)
        else:
            unidentified.append(gpu)
    driver_version, cuda_version = root_values.get("driver_version"), root_values.get("cuda_version")
    return Report(
        driver_version=sys.intern(driver_version) if driver_version is not None else None,
        cuda_version=sys.intern(cuda_version) if cuda_version is not None else None,
        gpus=tuple(gpus.values()),
        unidentified=tuple(unidentified),
    )


def _build_gpu(values: dict[str, str]) -> Gpu | UnidentifiedGpu:
    # The attribute is all that is known of a lost GPU.
    bus = values.pop("id").strip()
    if len(bus) <= _MAX_VALUE_LENGTH and not _ABSENT.fullmatch(bus):
        values.setdefault("pci_bus_id", bus)
    # Apart from uuid and serial, the same values occur all over a fleet: keep one copy of each in memory.
    texts = {
        field: text if field in _UNIQUE_FIELDS else sys.intern(text)
        for field, text in values.items()
        if not (field in _IDENTIFIERS and _ALL_ZEROS.fullmatch(text))
    }
    uuid, minor, mig = texts.pop("uuid", None), texts.pop("minor_number", None), texts.pop("mig", None)
    if uuid is None:
        return UnidentifiedGpu(**{field: texts.get(field) for field in UnidentifiedGpu.__struct_fields__})
    return Gpu(
        uuid=canonical_uuid(uuid),
        minor_number=int(minor) if minor is not None and _MINOR_NUMBER.fullmatch(minor) else None,
        mig=_MIG_MODES.get(mig or ""),
        **texts,
    )
