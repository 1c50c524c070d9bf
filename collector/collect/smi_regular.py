"""Reads documents that are exactly as the tool prints them, without an XML parser; the parser reads all others.

The GPUs of a fleet differ in the texts of their elements, but hardly in the elements, once those that are not read are
cut: lists of processes, clocks and MIG devices among them. So a GPU's tags are compared with those of GPUs seen before,
and each sequence of tags is parsed only once, as a document in which each text is its own number: the texts that are
read there show which ones are read in every GPU with these tags.

Regular are plain tags and printable ASCII text, nothing else: neither attributes nor entities, comments or other
declarations. Then a `<` begins a tag and the next `>` ends it, whatever surrounds them.
"""

import functools
import operator
import re
import threading
from collections.abc import Callable
from typing import NamedTuple

from lxml import etree

from collector.collect.smi_elements import Verbatim
from collector.collect.smi_output import ROOT, BadOutputError, Document
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

_MAX_HEAD_BYTES = 1 << 12  # before the first GPU
_MAX_GPU_BYTES = 1 << 16  # of a GPU, which has 6 kB
_MAX_GPUS = 64
_MAX_TAG_BYTES, _MAX_LEAVES = 1 << 14, 256  # of a GPU, which has 3 kB and 43
_MAX_HEALTH_BYTES = 4096  # of a GPU's texts about health, which have 200
_TEXTS = 1024  # sets of texts about health that are remembered: most GPUs have the same
_MAX_SHAPES = 256  # sequences of tags that are remembered: one or two for each driver and model

_ROOT_END = f"</{ROOT}>".encode()
_GPU_START, _GPU_END = b'<gpu id="', "/gpu"
_GPU = re.compile(rb'([\w:.-]+)">')
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte not in b"<>&") + b"\t\n\r"
_TAG = re.compile(r"/?[A-Za-z_][\w.-]*")
# A list of retired pages, which is as long as a GPU is worn. One that is not empty counts as one of one page.
_PAGES = re.compile(
    rb"(?<=<retired_pagelist>)(?:\s*<([A-Za-z_]\w*)>[\t\n\r -%'-;=?-~]*</\1>)+(?=\s*</retired_pagelist>)"
)
_ONE_PAGE = b"<page></page>"


class _Shape(NamedTuple):
    """What is read of a GPU, among its texts and tags."""

    texts: Callable[[list[bytes]], tuple[bytes, ...]]  # first those of fields
    fields: tuple[str, ...]  # that the texts fill
    health: tuple[str, ...]  # the path of each text that is kept verbatim


class _Gpu(NamedTuple):
    """A GPU from its start tag to the next GPU or the end of the document."""

    id: str
    parts: list[bytes]  # texts and tags, alternately
    tags: bytes


# By their tags, those used last at the end. Each document adds at most one: one node alone, whatever it prints, does
# not displace what the others print as often.
_shapes: dict[bytes, _Shape | None] = {}
_shapes_lock = threading.Lock()  # large outputs are read in threads


def read_regular(document: Document) -> Values | None:
    """Return the values of a document that is as the tool prints it; None for any other, which may be readable."""
    content = document.content
    if not content.isascii():
        return None
    head, *texts = content.split(_GPU_START, _MAX_GPUS + 1)
    if not 0 < len(texts) <= _MAX_GPUS or has_placeholders(content):
        return None
    texts[-1] = texts[-1].removesuffix(_ROOT_END)
    values = _read_head(head, document.around)
    if values is None:
        return None
    breaks = b"\r" in content
    may_add = True
    for text in texts:
        gpu = _split(text)
        if gpu is None:
            return None
        known = gpu.tags in _shapes
        if not known and not may_add:
            return None
        may_add = may_add and known
        shape = _shape(gpu.tags)
        found = _read_gpu(gpu, shape, breaks=breaks) if shape is not None else None
        if found is None:
            return None
        values.add_gpu(found)
    return values


def _read_head(head: bytes, around: bytes) -> Values | None:
    """Return the values of what comes before the first GPU."""
    if len(head) > _MAX_HEAD_BYTES:
        return None
    try:
        return read_document(parse_xml(head + _ROOT_END), around, placeholders=False)
    except (BadOutputError, etree.XMLSyntaxError):
        return None


def _split(text: bytes) -> _Gpu | None:
    """Return a GPU from the value of its id on; None if it is not regular."""
    start = _GPU.match(text)
    if start is None or len(text) > _MAX_GPU_BYTES:
        return None
    text = text[start.end() :]
    parts = text.replace(b">", b"<").split(b"<")
    if text.translate(None, _PLAIN) != b"<>" * (len(parts) // 2) or parts[-1].strip():
        return None
    tags = b"<".join(parts[1::2])
    if tags not in _shapes and (shorter := _PAGES.sub(_ONE_PAGE, text)) != text:
        parts = shorter.replace(b">", b"<").split(b"<")
        tags = b"<".join(parts[1::2])
    return _Gpu(start[1].decode(), parts, tags)


def _shape(tags: bytes) -> _Shape | None:
    with _shapes_lock:
        shape = _shapes.pop(tags) if tags in _shapes else _make_shape(tags)
        _shapes[tags] = shape
        if len(_shapes) > _MAX_SHAPES:
            del _shapes[next(iter(_shapes))]
        return shape


def _read_gpu(gpu: _Gpu, shape: _Shape, *, breaks: bool) -> GpuValues | None:
    """Return the values of a GPU; `breaks`: the document has carriage returns."""
    texts = shape.texts(gpu.parts)
    if breaks and b"\r" in b"".join(texts):
        return None
    health = texts[len(shape.fields) :]
    if sum(map(len, health)) > _MAX_HEALTH_BYTES:
        return None
    fields: dict[str, str] = {}
    for field, text in zip(shape.fields, texts, strict=False):
        take(field, text.decode(), fields, {})
    return GpuValues(fields, _health(shape.health, health), id=gpu.id)


@functools.lru_cache(maxsize=_TEXTS)
def _health(paths: tuple[str, ...], texts: tuple[bytes, ...]) -> dict[str, str]:
    health: dict[str, str] = {}
    for path, text in zip(paths, texts, strict=True):
        take(path, text.decode(), {}, health)
    return health


def _make_shape(joined: bytes) -> _Shape | None:
    """Return the shape of a GPU from its tags but the first; None if they are not regular."""
    if len(joined) > _MAX_TAG_BYTES:
        return None
    tags = joined.decode().split("<")
    if tags[-1] != _GPU_END or not all(map(_TAG.fullmatch, tags)):
        return None
    numbered = "".join(f"<{tag}>{2 * number + 2} " for number, tag in enumerate(tags[:-1]))
    try:
        document = parse_xml(f"<{ROOT}><gpu>{numbered}</gpu></{ROOT}>".encode())
        leaves = [(leaf, int(element.text or "")) for leaf, element in leaves_of_gpu(document[0])]
    except (BadOutputError, etree.XMLSyntaxError):
        return None
    if len(document) > 1 or len(leaves) > _MAX_LEAVES:
        return None
    leaves.sort(key=lambda found: isinstance(found[0], Verbatim))
    verbatim = [leaf for leaf, _ in leaves if isinstance(leaf, Verbatim)]
    return _Shape(
        texts=_getter([place for _, place in leaves]),
        fields=tuple(leaf for leaf, _ in leaves[: len(leaves) - len(verbatim)]),
        health=tuple(verbatim),
    )


def _getter(places: list[int]) -> Callable[[list[bytes]], tuple[bytes, ...]]:
    if len(places) < 2:
        return lambda parts: tuple([parts[place] for place in places])
    return operator.itemgetter(*places)
