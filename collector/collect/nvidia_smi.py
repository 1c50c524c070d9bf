"""Reads the XML that `nvidia-smi -q -x` prints.

The form is the tool's own (`nvsmi_device_v*.dtd`, which it names but does not ship); the names of the fields of the
platform block are those of nvmlPlatformInfo_t in NVIDIA's NVML reference, versions 1 and 2.
"""

import re
import sys
from xml.parsers import expat

import msgspec

from collector.model import Gpu, GpuidError, UnidentifiedGpu, canonical_uuid

__all__ = ["LIMIT", "BadOutputError", "Log", "parse"]


class BadOutputError(GpuidError):
    """The text is not what `nvidia-smi -q -x` prints, or not all of it."""


class Log(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one run of the tool says; a value that the tool does not know is None."""

    driver_version: str | None
    cuda_version: str | None
    gpus: tuple[Gpu, ...]  # each once
    unidentified: tuple[UnidentifiedGpu, ...] = ()  # GPUs without a UUID, such as those that the driver has lost


def parse(output: bytes) -> Log:
    """Read one complete document; raises BadOutput.

    Lines of text around it are passed over: the tool warns of a corrupted infoROM on its standard output. The document
    comes from a node and is not trusted: entities may not be declared, the DTD is never loaded, and depth, number and
    length of what is read are bounded. A GPU that the driver has lost has few values or none, and does not void the
    others.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.EntityDeclHandler = _refuse_entity
    parser.SkippedEntityHandler = _refuse_entity
    reader = _Reader(parser)
    begin = _MARKUP.search(output)
    document = output[begin.end() - 1 :] if begin else output.lstrip(b" \t\r\n")
    try:
        parser.Parse(document, True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # a strange encoding is a ValueError or LookupError
        rest = document[document.rfind(b">", 0, parser.ErrorByteIndex) + 1 :]  # the error is in the first word of it
        if not reader.complete or _MARKUP.search(rest):
            raise BadOutputError(f"not the XML of nvidia-smi: {str(error)[:120]}") from error
    return reader.log()


_MARKUP = re.compile(rb"^(?:\xef\xbb\xbf)?[ \t]*<", re.MULTILINE)  # a line that begins so is no text
_ROOT = "nvidia_smi_log"

# The path of each element that is read, below the root, and the field that it fills.
_FIELDS = {
    "driver_version": "driver_version",
    "kmd_version": "driver_version",  # the name that is to replace driver_version; version 13 of the form has both
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

# Where all zeros mean that there is none; slot 0, tray 0 and minor number 0 are real.
_IDENTIFIERS = frozenset({"uuid", "serial", "chassis", "board_part_number", "gpu_part_number"})
_UNIQUE = frozenset({"uuid", "serial"})

_ABSENT = re.compile(
    r"\[?(?:|-|n/a|none|null|unknown|unknown error(?: \(\d+\))?|err!|error|no access|no data|timeout|uninitialized"
    r"|(?:.* )?not (?:available|supported|found|ready)|driver not loaded|corrupted inforom|gpu is lost|reset required"
    r"|gpu requires reset|insufficient \w+|(?:requested functionality has been )?deprecated|gpu access blocked.*"
    r"|unable to .*|.*redacted.*|[x*#?]+(?:-[x*#?]+)*)\]?",
    re.IGNORECASE,
)
_ALL_ZEROS = re.compile(r"(?:GPU-|0x)?[0-]+", re.IGNORECASE)

LIMIT = 64 << 20  # bytes that an output may have
_DEPTH = 32  # the tool nests 6 deep
_GPUS = 256  # of one node; the tool's largest machines have 16
_LENGTH = 128  # characters of one value


class _Element(dict[str, "_Element"]):
    """What may be read inside an element; `field` is what its own text fills."""

    field = ""


def _tree() -> _Element:
    root = _Element(gpu=_Element())
    for path, field in _FIELDS.items():
        element = root
        for name in path.split("/"):
            element = element.setdefault(name, _Element())
        element.field = field
    return root


_ROOT_ELEMENT = _tree()
_GPU_ELEMENT = _ROOT_ELEMENT["gpu"]
_DOCUMENT = _Element({_ROOT: _ROOT_ELEMENT})
_UNREAD = _Element()


class _Reader:
    """Collects the wanted elements while expat walks the document.

    A node prints 2,000 elements of which 150 are read: what `_start` and `_end` do for the others is what parsing
    costs, and expat hands text over only while it is wanted.
    """

    __slots__ = ("_field", "_gpus", "_open", "_parser", "_root", "_text", "_values", "complete")

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.complete = False  # the root element has ended
        self._parser = parser
        self._open = [_DOCUMENT]
        self._field = ""  # that the text fills
        self._text = ""
        self._root: dict[str, str] = {}
        self._values = self._root
        self._gpus: list[dict[str, str]] = []
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        opened = self._open
        element = opened[-1].get(name, _UNREAD)
        opened.append(element)
        if self._field:  # a value with elements inside is none
            self._close()
        if element is _UNREAD:
            if len(opened) == 2:
                raise BadOutputError(f"not the XML of nvidia-smi: the root element is {name[:40]}, expected {_ROOT}")
            if len(opened) > _DEPTH:
                raise BadOutputError(f"elements nested deeper than {_DEPTH}")
        elif element.field:
            self._field, self._text = element.field, ""
            self._parser.CharacterDataHandler = self._characters
        elif element is _GPU_ELEMENT:
            if len(self._gpus) == _GPUS:
                raise BadOutputError(f"more than {_GPUS} GPUs in one node")
            self._values = {"id": attributes.get("id", "")[: _LENGTH + 1]}
            self._gpus.append(self._values)

    def _characters(self, text: str) -> None:
        if len(self._text) <= _LENGTH:
            self._text += text

    def _end(self, _name: str) -> None:
        element = self._open.pop()
        if element is _UNREAD:
            return
        if self._field:
            text = self._text.strip()
            if len(text) <= _LENGTH and not _ABSENT.fullmatch(text):
                self._values.setdefault(self._field, text)
            self._close()
        elif element is _GPU_ELEMENT:
            self._values = self._root
        elif element is _ROOT_ELEMENT:
            self.complete = True

    def _close(self) -> None:
        self._field, self._parser.CharacterDataHandler = "", None

    def log(self) -> Log:
        if not self._gpus and self._root.get("attached_gpus") != "0":
            raise BadOutputError("no GPU in the output, and it does not say that none is attached")
        gpus: dict[str, Gpu] = {}
        unidentified: list[UnidentifiedGpu] = []
        for values in self._gpus:
            gpu = _gpu(values)
            if isinstance(gpu, Gpu):
                gpus.setdefault(gpu.uuid, gpu)
            else:
                unidentified.append(gpu)
        return Log(
            driver_version=self._version("driver_version"),
            cuda_version=self._version("cuda_version"),
            gpus=tuple(gpus.values()),
            unidentified=tuple(unidentified),
        )

    def _version(self, field: str) -> str | None:
        version = self._root.get(field)
        return None if version is None else sys.intern(version)


def _gpu(values: dict[str, str]) -> Gpu | UnidentifiedGpu:
    # Of a GPU that is lost, the attribute is all that is known.
    bus = values.pop("id").strip()
    if len(bus) <= _LENGTH and not _ABSENT.fullmatch(bus):
        values.setdefault("pci_bus_id", bus)
    # All but uuid and serial repeat all over a fleet: one copy in memory is enough.
    texts = {
        field: text if field in _UNIQUE else sys.intern(text)
        for field, text in values.items()
        if not (field in _IDENTIFIERS and _ALL_ZEROS.fullmatch(text))
    }
    uuid, minor, mig = texts.pop("uuid", None), texts.pop("minor_number", None), texts.pop("mig", None)
    if uuid is None:
        return UnidentifiedGpu(**{field: texts.get(field) for field in UnidentifiedGpu.__struct_fields__})
    return Gpu(
        uuid=canonical_uuid(uuid),
        minor_number=int(minor) if minor is not None and re.fullmatch(r"[0-9]{1,9}", minor) else None,
        mig={"Enabled": True, "Disabled": False}.get(mig or ""),
        **texts,
    )


def _refuse_entity(*_declaration: object) -> None:
    raise BadOutputError("the XML declares or uses an entity, which nvidia-smi never does")
