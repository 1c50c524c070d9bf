"""Reads outputs that are exactly as the tool prints them, without an XML parser; the parser reads all others.

The GPUs of a fleet differ in the texts of their elements, but hardly in the elements. So a GPU's tags are compared with
those of GPUs seen before, and each sequence of tags is parsed only once, as a document in which each text is its own
number: the texts that are read there show which ones are read in every GPU with these tags.

Regular are plain tags and printable ASCII text, nothing else: neither attributes nor entities, comments or other
declarations. Then a `<` begins a tag and the next `>` ends it, whatever surrounds them.
"""

import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from lxml import etree

from collector.collect.smi_elements import Verbatim
from collector.collect.smi_output import ROOT, BadOutputError, find_document
from collector.collect.smi_tree import (
    GpuValues,
    Values,
    has_placeholders,
    leaves_of_gpu,
    parse_xml,
    read_document,
    take,
)

__all__ = ["read_regular"]

_MAX_BYTES = 1 << 20  # of an output; 16 GPUs print up to 700 kB
_MAX_HEAD_BYTES = 1 << 12  # before the first GPU
_MAX_GPU_BYTES = 1 << 16  # of a GPU, which takes 12 to 45 kB
_MAX_GPUS = 64
_MAX_TAGS, _MAX_LEAVES = 4096, 256  # of a GPU, which has 500 and 43, and 14 more tags for each process
_MAX_HEALTH_BYTES = 4096  # of a GPU's texts about health, which have 200
_TEXTS = 1024  # sets of texts about health that are remembered: most GPUs have the same
_SHAPES = 64  # sequences of tags that are remembered, each up to half as long as a GPU

_ROOT_START, _ROOT_END = f"<{ROOT}>".encode(), f"</{ROOT}>".encode()
_GPU_START, _GPU_END = b'\n\t<gpu id="', "/gpu"
_IRREGULAR_HEAD = re.compile(rb"encoding|<gpu|process|</nvidia_smi_log")
_GPU = re.compile(rb'([\w:.-]+)">')
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte not in b"<>&") + b"\t\n"
_TAG = re.compile(r"/?[A-Za-z_][\w.-]*")
_NAME = "process_name"


class _Shape(NamedTuple):
    """The places of texts in a GPU, among its texts and tags."""

    fields: tuple[tuple[str, int], ...]  # for each text that fills a field
    health: tuple[str, ...]  # the path of each text that is kept verbatim
    health_texts: Callable[[list[bytes]], tuple[bytes, ...]]
    names: tuple[int, ...]  # of processes


def read_regular(output: bytes) -> Values | None:
    """Return the values of an output that is as the tool prints it; None for any other, which may be readable."""
    if len(output) > _MAX_BYTES or not output.isascii() or has_placeholders(output):
        return None
    head, *gpus = output.split(_GPU_START, _MAX_GPUS + 1)
    if not 0 < len(gpus) <= _MAX_GPUS:
        return None
    gpus[-1], end, rest = gpus[-1].rpartition(_ROOT_END)
    if not end or not (rest.isspace() or not rest):
        return None
    values = _read_head(head)
    if values is None:
        return None
    for text in gpus:
        gpu = _read_gpu(text)
        if gpu is None:
            return None
        values.add_gpu(gpu)
    return values


def _read_head(head: bytes) -> Values | None:
    """Return the values of what comes before the first GPU."""
    if len(head) > _MAX_HEAD_BYTES or _IRREGULAR_HEAD.search(head):
        return None
    try:
        document = find_document(head + b"\n" + _ROOT_END)
        if document.warnings:
            return None
        return read_document(parse_xml(document.content), document.around, placeholders=False)
    except (BadOutputError, etree.XMLSyntaxError):
        return None


def _read_gpu(text: bytes) -> GpuValues | None:
    """Return the values of a GPU, from the value of its id to the next GPU or the end of the document."""
    start = _GPU.match(text)
    if start is None or len(text) > _MAX_GPU_BYTES:
        return None
    text = text[start.end() :]
    parts = text.replace(b">", b"<").split(b"<")  # texts and tags, alternately
    if text.translate(None, _PLAIN) != b"<>" * (len(parts) // 2):
        return None
    shape = _shape(b"<".join(parts[1::2]))
    if shape is None or not parts[-1].isspace() or any(b"\n" in parts[place] for place in shape.names):
        return None
    fields: dict[str, str] = {}
    for field, place in shape.fields:
        take(field, parts[place].decode(), fields, {})
    texts = shape.health_texts(parts)
    if sum(map(len, texts)) > _MAX_HEALTH_BYTES:
        return None
    return GpuValues(fields, _health(shape.health, texts), id=start[1].decode())


@functools.lru_cache(maxsize=_TEXTS)
def _health(paths: tuple[str, ...], texts: tuple[bytes, ...]) -> dict[str, str]:
    health: dict[str, str] = {}
    for path, text in zip(paths, texts, strict=True):
        take(path, text.decode(), {}, health)
    return health


@functools.lru_cache(maxsize=_SHAPES)
def _shape(joined: bytes) -> _Shape | None:
    """Return the shape of a GPU from its tags but the first; None if they are not regular."""
    if joined.count(b"<") > _MAX_TAGS:
        return None
    tags = joined.decode().split("<")
    names = [number for number, tag in enumerate(tags) if tag == _NAME]
    if (
        not all(map(_TAG.fullmatch, tags))
        or [tag for tag in tags if tag.lstrip("/") in (ROOT, "gpu")] != [_GPU_END]
        or tags[-1] != _GPU_END
        or any(tags[number + 1] != f"/{_NAME}" for number in names)
        or sum(tag.endswith(_NAME) for tag in tags) != 2 * len(names)
    ):
        return None
    numbered = "".join(f"<{tag}>{2 * number + 2} " for number, tag in enumerate(tags[:-1]))
    try:
        document = find_document(f"<{ROOT}>\n<gpu>{numbered}</gpu>\n</{ROOT}>".encode())
        gpu = parse_xml(document.content)[0]
        leaves = [(leaf, int(element.text or "")) for leaf, element in leaves_of_gpu(gpu)]
    except (BadOutputError, etree.XMLSyntaxError, ValueError):  # a ValueError: texts around an element that is cut
        return None
    if document.warnings or len(leaves) > _MAX_LEAVES:
        return None
    verbatim = [(leaf, place) for leaf, place in leaves if isinstance(leaf, Verbatim)]
    places = [place for _, place in verbatim]
    return _Shape(
        fields=tuple((leaf, place) for leaf, place in leaves if not isinstance(leaf, Verbatim)),
        health=tuple(leaf for leaf, _ in verbatim),
        health_texts=lambda parts: tuple([parts[place] for place in places]),
        names=tuple(2 * number + 2 for number in names),
    )
