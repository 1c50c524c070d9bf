"""Reads the wanted values from the tree of a document, or of one GPU, that lxml has parsed."""

from collections.abc import Iterable, Iterator

from lxml import etree

from collector.collect.smi_elements import (
    BLOCKS,
    BLOCKS_OF_GPU,
    WANTED,
    WANTED_OF_GPU,
    Verbatim,
    Wanted,
)
from collector.collect.smi_health import MAX_LENGTH
from collector.collect.smi_output import BadOutputError, ContestedOutputError
from collector.collect.smi_values import GPU_LOST, MAX_VALUE_LENGTH, PLACEHOLDER, RESET_REQUIRED, known_value

__all__ = [
    "GpuValues",
    "Values",
    "has_placeholders",
    "leaves_of_gpu",
    "parse_xml",
    "read_document",
    "read_gpu",
    "read_root",
    "take",
]

_MAX_GPUS = 256  # in one node; the largest machines have 16


class GpuValues:
    """The values of one <gpu>."""

    __slots__ = ("fields", "health", "lost", "reset", "whole")

    def __init__(self, fields: dict[str, str], health: dict[str, str], *, id: str) -> None:  # noqa: A002
        # For some lost GPUs, only this attribute is known.
        if len(id) <= MAX_VALUE_LENGTH and (bus_id := known_value(id)) is not None:
            fields.setdefault("pci_bus_id", bus_id)
        self.fields = fields
        self.health = health  # as written, by the paths of the elements
        self.lost = False  # the driver reports it instead of a value
        self.reset = False  # likewise, a required reset
        self.whole = True


class Values:
    """The values of a document."""

    __slots__ = ("fields", "gpus", "said")

    def __init__(self, said: bytes) -> None:
        self.fields: dict[str, str] = {}
        self.gpus: list[GpuValues] = []
        self.said = said  # text around the document and between its parts

    def add_gpu(self, gpu: GpuValues) -> None:
        """Add a GPU; raises ContestedOutputError for too many."""
        if len(self.gpus) == _MAX_GPUS:
            raise ContestedOutputError(f"more than {_MAX_GPUS} GPUs on one node")
        self.gpus.append(gpu)

    def add_text(self, text: str | None) -> None:
        """Add text between the parts of the document."""
        if text and not text.isspace():
            self.said += b"\n" + text.encode("utf-8", "replace")


def parse_xml(content: bytes, *, recover: bool = False) -> etree._Element:
    """Return the root of a document without a prolog; raises XMLSyntaxError, and BadOutputError for one too deep."""
    parser = etree.XMLParser(
        encoding="utf-8",
        recover=recover,
        resolve_entities=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
        remove_blank_text=True,
        collect_ids=False,  # which loads the DTD that a prolog names, whatever `load_dtd` says
    )
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        if "depth" in str(error):
            raise _depth_error() from error
        raise
    if root is None:
        raise BadOutputError("not the XML of nvidia-smi: it has no elements")
    if recover and any("depth" in entry.message for entry in parser.error_log):
        raise _depth_error()
    return root


def _depth_error() -> BadOutputError:
    return BadOutputError("elements nested deeper than 256")  # libxml2's own limit; the tool uses 6 levels


def read_document(root: etree._Element, around: bytes, *, placeholders: bool) -> Values:
    """Return the values of a parsed document; raises ContestedOutputError for too many GPUs."""
    values = Values(around)
    read_root(root, values.fields)
    values.add_text(root.text)
    for child in root:
        if child.tag == "gpu":
            values.add_gpu(read_gpu(child, placeholders=placeholders))
        values.add_text(child.tail)
    return values


def read_root(root: etree._Element, fields: dict[str, str]) -> None:
    """Add the wanted values of a document that are not of its GPUs."""
    for leaf, element in _leaves(root.iterchildren(*BLOCKS), WANTED):
        take(leaf, element.text, fields, {})


def read_gpu(gpu: etree._Element, *, placeholders: bool) -> GpuValues:
    """Return the values of one GPU; `placeholders`: look for what the driver reports instead of values, too."""
    fields: dict[str, str] = {}
    health: dict[str, str] = {}
    for leaf, element in leaves_of_gpu(gpu):
        take(leaf, element.text, fields, health)
    values = GpuValues(fields, health, id=gpu.get("id", ""))
    if placeholders:
        said = {text.strip() for element in gpu.iter() if (text := element.text) is not None}
        values.lost, values.reset = GPU_LOST in said, RESET_REQUIRED in said
    return values


def leaves_of_gpu(gpu: etree._Element) -> Iterator[tuple[str, etree._Element]]:
    """Yield the wanted elements of a GPU, in their order, each with the field or the path that its text fills."""
    return _leaves(gpu.iterchildren(*BLOCKS_OF_GPU), WANTED_OF_GPU)


def _leaves(elements: Iterable[etree._Element], wanted: Wanted) -> Iterator[tuple[str, etree._Element]]:
    for element in elements:
        leaf = wanted.get(element.tag)
        if isinstance(leaf, dict):
            yield from _leaves(element, leaf)
        elif leaf is not None and not len(element):
            yield leaf, element


def take(leaf: str, text: str | None, fields: dict[str, str], verbatim: dict[str, str]) -> None:
    """Add the text of a wanted element; of several for one field, the first known one counts."""
    if not text or (len(text) > MAX_VALUE_LENGTH and len(text := text.strip()) > MAX_VALUE_LENGTH):
        return
    if type(leaf) is Verbatim:  # faster than isinstance
        if leaf not in verbatim:
            verbatim[leaf] = text if len(text) <= MAX_LENGTH else text.strip()[: MAX_LENGTH + 1]
    elif leaf not in fields and (value := known_value(text)) is not None:
        fields[leaf] = value


def has_placeholders(content: bytes) -> bool:
    """Return whether a GPU may be lost or require a reset, which the driver reports instead of any of its values."""
    return PLACEHOLDER.search(content) is not None
