"""Finds the document in the output of `nvidia-smi -q -x`, strips unread elements, and finds the tool's own messages.

Everything here works on bytes, before any XML parser: elements that are never read contain what tenants of the node
choose (the names of their processes), which must not be able to corrupt or imitate the rest.
"""

import bisect
import codecs
import itertools
import re
from typing import NamedTuple

from collector.collect.smi_unread import unread_parts
from collector.model import GpuidError, GpuRef, canonical_bus_id
from collector.text import one_line

__all__ = [
    "ROOT",
    "BadOutputError",
    "ContestedOutputError",
    "Document",
    "entity_error",
    "find_certain_part",
    "find_document",
    "lost_gpus",
    "own_text",
    "own_words",
    "split_gpus",
]

ROOT = "nvidia_smi_log"

_MAX_WORDS_LENGTH = 120  # characters of the tool's own message in an error
_MAX_WORDS_BYTES = 16_384  # at either end of the output, searched for messages
_MAX_STARTS = 1024  # tags that may begin a GPU, in all documents of an output
_MAX_INDENT = 64  # bytes before a tag that begins a line
_MAX_LOST_GPUS = 256  # that are named in one output

_ROOT_START = re.compile(rb"<nvidia_smi_log(?=[\s/>])")
_ROOT_NAME = ROOT.encode()
_ROOT_END = b"</nvidia_smi_log>"
_GPU_START = re.compile(rb"<gpu[\s>]")
_DECLARED_ENCODING = re.compile(rb"""<\?xml\b[^<>]*?\bencoding\s*=\s*["']([A-Za-z0-9._-]{1,40})["']""")
_OTHER_ROOT = re.compile(rb"<(?:\w+:)?(\w+)")
_GPU_END = re.compile(rb"</(gpu)\s*>")
_END_TAG = re.compile(rb"</([\w:.-]+)\s*>")
_NAMES_START = re.compile(rb"<(?:accounted_)?processes\s*>")
_NAME_TAG = b"process_name>"

# Encodings that a document may declare besides UTF-8 and UTF-16; what it says otherwise is read as UTF-8.
_ENCODINGS = re.compile(r"iso8859-\d+|cp\d+|gb2312|gbk|gb18030|big5|shift_jis|euc_\w+|koi8-\w")

# "Unable to determine the device handle for GPU0: 0000:18:00.0: Unknown Error", in all its forms: with and without
# the index, with "GPU is lost.  Reboot the system to recover this GPU" or "Not Found" in place of the last words.
_NO_HANDLE = re.compile(rb"device handle for\b|GPU is lost\b|fallen off the bus", re.IGNORECASE)
_WORDS_AROUND = 200  # bytes before and after these words, on their line, in which the bus address is
_LINE_ENDS = re.compile(rb"[\n<]")
# The domain is not always there; the index "GPU0:" before it is no part of it.
_BUS_ID = re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7](?![0-9A-Fa-f.])")


class BadOutputError(GpuidError):
    """The text is not the output of `nvidia-smi -q -x`, or is incomplete."""


class ContestedOutputError(BadOutputError):
    """Process names may imitate GPUs, or ends: only the output before the first of them is certain."""


class Document(NamedTuple):
    """One document, without unread elements."""

    content: bytes  # from the start tag of the root to its end tag; supposed to be UTF-8, but may not be
    around: bytes  # output before and after it
    warnings: list[str]


def find_document(output: bytes) -> Document:
    """Return the first document of an output; raises BadOutputError if none begins, or it does not end.

    Everything before and after its root element is skipped: the tool's warnings, the prolog, prefixes of a log, more
    documents. Only the first document counts, because text inside it could imitate a later one.
    """
    warnings: list[str] = []
    output, start = _find_root(output, warnings)
    head = output[:start]
    alone = _is_alone(output, start)
    several = (
        not alone and _ROOT_START.search(output, start + 1) is not None
    )  # documents, or a name of a process says so
    if _has_name_with_line_break(output, start):
        raise ContestedOutputError("a process name with a line break, which may imitate GPUs")
    content = _cut(output, start, warnings, several=several)
    end = content.rfind(_ROOT_END) if alone else content.find(_ROOT_END)
    if end < 0:
        raise _cut_off_error()
    if several and _ROOT_START.search(content, 1, end):
        raise ContestedOutputError(str(_cut_off_error()))  # or one that the name of a process imitates
    end += len(_ROOT_END)
    tail = content[end:]
    if several and _ROOT_START.search(tail):
        warnings.append("more than one document; reading only the first")
    return Document(content[:end], head + b"\n" + tail, warnings)


def find_certain_part(output: bytes) -> Document:
    """Return the first document of an output up to its first process names, as a separate document.

    No name can change the output before it: the number of attached GPUs, and the first GPU. Raises BadOutputError
    like `find_document`, and if no process is named.
    """
    warnings: list[str] = []
    output, start = _find_root(output, warnings)
    if output.rfind(_ROOT_END) < start:
        raise _cut_off_error()
    gpu = _GPU_START.search(output, start)
    names = _NAMES_START.search(output, gpu.end()) if gpu is not None else None
    if names is None or output.find(_NAME_TAG, names.end()) < 0:
        raise BadOutputError("not the XML of nvidia-smi: no process is named")
    certain = output[: names.start()] + b"</gpu>\n" + _ROOT_END
    return Document(_cut(certain, start, warnings, several=False), output[:start], warnings)


def entity_error() -> BadOutputError:
    """Return the error about a document that declares or uses an entity."""
    return BadOutputError("the XML has an entity, which nvidia-smi never prints")


def split_gpus(content: bytes) -> tuple[bytes, list[bytes]]:
    """Return a stripped document as its head and its GPUs, each with the text that follows it."""
    starts = _gpu_starts(content, 0)
    if not starts:
        return content, []
    return content[: starts[0]], [content[at:end] for at, end in zip(starts, [*starts[1:], len(content)], strict=True)]


def lost_gpus(text: bytes) -> tuple[GpuRef, ...]:
    """Return the GPUs that the tool reports as unreachable; without a bus address if it names none.

    `text` is its own message, not values of a document.
    """
    found = list(itertools.islice(_NO_HANDLE.finditer(text), _MAX_LOST_GPUS))
    if not found:
        return ()
    buses: dict[str, None] = {}
    for match, following in itertools.zip_longest(found, found[1:]):
        end = match.end() + _WORDS_AROUND
        after = text[match.end() : end if following is None else min(end, following.start())]
        words = _LINE_ENDS.split(after, 1)[0]
        if match[0][:1] not in b"dD":  # the address may come before these words
            words = _LINE_ENDS.split(text[max(0, match.start() - _WORDS_AROUND) : match.start()])[-1] + words
        for bus in _BUS_ID.findall(words.decode("ascii", "replace"))[:1]:
            buses[canonical_bus_id(bus)] = None
    return tuple(GpuRef(pci_bus_id=bus) for bus in list(buses)[:_MAX_LOST_GPUS]) or (GpuRef(),)


def own_words(*outputs: bytes) -> str:
    """Return a command's own message in one short line: its first and last lines that are not markup.

    Empty if there is none.
    """
    lines: list[str] = []
    for output in outputs:
        ends = output if len(output) <= 2 * _MAX_WORDS_BYTES else output[:_MAX_WORDS_BYTES] + output[-_MAX_WORDS_BYTES:]
        for line in ends.decode(errors="replace").splitlines():
            text = one_line(line)
            if text and not text.startswith("<") and any(letter.isalnum() for letter in text):
                lines.append(text)
    if len(lines) > 2:
        lines = [lines[0], "…", lines[-1]]
    text = lines[0] if lines else ""
    for line in lines[1:]:
        text += f" {line}" if line == "…" or text.endswith("…") else f"; {line}"
    return one_line(text, _MAX_WORDS_LENGTH)


def own_text(output: bytes) -> bytes:
    """Return the output before the first document, and after one that is cut off.

    All of it without a document; nothing if the output is the rest of one whose beginning is missing.
    """
    root = _ROOT_START.search(output)
    if root is None:
        return b"" if _lacks_beginning(output) else output
    after = output[output.rfind(b">") + 1 :]
    return output[: root.start()] + after[after.find(b"\n") + 1 :]


def _lacks_beginning(output: bytes) -> bool:
    """Return whether an output without a root element is the rest of a document whose beginning is missing."""
    if _ROOT_END in output or ((first := _OTHER_ROOT.search(output)) is not None and first[1] == b"gpu"):
        return True
    ends = [end for end in (_END_TAG.search(output), _GPU_END.search(output)) if end is not None]
    return any(not re.search(rb"<" + re.escape(end[1]) + rb"[\s>]", output[: end.start()]) for end in ends)


def _why_no_document(output: bytes) -> str:
    if _lacks_beginning(output):
        return "the document has no beginning"
    markup = _OTHER_ROOT.search(output)
    if markup is not None:
        name = one_line(markup[1].decode("ascii", "replace"), 40)
        return own_words(output) or f"the root element is {name}, expected {ROOT}"
    return own_words(output) or ("no text in the output" if output.strip() else "the output is empty")


def _cut_off_error() -> BadOutputError:
    return BadOutputError("not the XML of nvidia-smi: the document is cut off before its end")


def _find_root(output: bytes, warnings: list[str]) -> tuple[bytes, int]:
    """Return an output in UTF-8 and the start of its first root element; raises BadOutputError if there is none."""
    output, start = _to_utf8(output, warnings)
    if start < 0:
        raise BadOutputError(f"not the XML of nvidia-smi: {_why_no_document(output)}")
    if b"<!ENTITY" in output[:start]:
        raise entity_error()
    return output, start


def _is_alone(output: bytes, start: int) -> bool:
    """Return whether the name of the root element at `start` occurs after that only in one end tag."""
    name = output.find(_ROOT_NAME, start + 1 + len(_ROOT_NAME))
    return name >= 0 and output.startswith(_ROOT_END, name - 2) and output.find(_ROOT_NAME, name + 1) < 0


def _has_name_with_line_break(output: bytes, start: int) -> bool:
    """Return whether the name of a process is not on one line, as the tool prints it."""
    at = output.find(_NAME_TAG, start)
    if at < 0 or _has_plain_names(output[at - 1 :]):
        return False
    names = _NAMES_START.search(output, start)
    at = output.find(_NAME_TAG, names.end()) if names is not None else -1
    while at >= 0:
        end = output.find(b"\n", at)
        line = output[output.rfind(b"\n", 0, at) + 1 : end if end >= 0 else len(output)]
        opened = line.find(b"<" + _NAME_TAG)
        if opened < 0 or line.rfind(b"</" + _NAME_TAG) < opened:
            return True
        at = output.find(_NAME_TAG, end) if end >= 0 else -1
    return False


def _has_plain_names(output: bytes) -> bool:
    """Return whether all names of processes are on one line and contain no tag that begins or ends a name."""
    around, names = (parts := output.split(_NAME_TAG))[:-1:2], parts[1::2]
    return (
        len(parts) % 2 == 1
        and all(text.endswith(b"<") for text in around)
        and all(name.endswith(b"</") for name in names)
        and b"\n" not in b"".join(names)
    )


def _to_utf8(output: bytes, warnings: list[str]) -> tuple[bytes, int]:
    """Return an output in UTF-8, and the start of its first root element (-1: none)."""
    if (root := _ROOT_START.search(output)) is not None:
        declared = _DECLARED_ENCODING.search(output, 0, root.start())
        if declared is not None and (codec := _known_codec(declared[1].decode("ascii"), warnings)):
            output = output.decode(codec, "replace").encode("utf-8", "replace")
            root = _ROOT_START.search(output)
        elif not output.isascii():
            try:
                output.decode()
            except UnicodeDecodeError:
                warnings.append("the output has bytes that are not UTF-8")
    elif (at := output.find("\0".join(f"<{ROOT}").encode())) >= 0:
        codec, start = _utf_16(output, at)
        output = output[start % 2 :].decode(codec, "replace").encode("utf-8", "replace")
        root = _ROOT_START.search(output)
    return output, -1 if root is None else root.start()


def _utf_16(output: bytes, at: int) -> tuple[str, int]:
    """Return in which UTF-16 the ASCII text around `at` is, and where one of its characters begins.

    In either, each letter has a null on both sides, but for the ends of the text: a byte-order mark decides, or else
    what is before the first letter.
    """
    big, little = output.rfind(codecs.BOM_UTF16_BE, 0, at), output.rfind(codecs.BOM_UTF16_LE, 0, at)
    if big != little:
        return ("utf-16-be", at - 1) if big > little else ("utf-16-le", at)
    first = at
    while first >= 2 and output[first - 1] == 0 and 0 < output[first - 2] < 128:
        first -= 2
    return ("utf-16-be", at - 1) if first and output[first - 1] == 0 else ("utf-16-le", at)


def _known_codec(name: str, warnings: list[str]) -> str | None:
    """Return the codec of a declared encoding; None for UTF-8, and for an unknown one, with a warning."""
    try:
        codec = codecs.lookup(name).name
    except (LookupError, ValueError):
        codec = ""
    if _ENCODINGS.fullmatch(codec):
        return codec
    if codec not in ("utf-8", "utf-8-sig", "ascii", "utf-16", "utf-16-le", "utf-16-be"):
        warnings.append(f"encoding {one_line(name, 40)} declared, UTF-8 assumed")
    return None


def _gpu_starts(output: bytes, start: int) -> list[int]:
    """Return the starts of an output's GPUs, from `start` on; raises ContestedOutputError for too many.

    The tool begins a line with each, so one in the middle of a line may be in the name of a process. Only where no line
    begins with one, which is not how the tool prints, all of them count.
    """
    starts: list[int] = []
    others: list[int] = []  # in the middle of a line
    for match in _GPU_START.finditer(output, start):
        at = match.start()
        if _begins_line(output, at):
            starts.append(at)
        elif output[max(0, at - _MAX_INDENT) : at].rstrip(b" \t\r").endswith(b">"):
            others.append(at)
        if len(starts) + len(others) > _MAX_STARTS:
            raise ContestedOutputError(f"more than {_MAX_STARTS} GPUs in the output")
    if not others:
        return starts
    if not starts:
        return others
    return starts if starts[0] < others[0] else [others[0], *starts]


def _ends(output: bytes, starts: list[int], *, several: bool) -> list[int]:
    """Return the end of each GPU's part: the start of the next GPU or document, or the end of the output."""
    ends = [*starts[1:], len(output)]
    for match in _ROOT_START.finditer(output, starts[0]) if several else ():
        if _begins_line(output, match.start()):
            index = bisect.bisect_right(starts, match.start()) - 1
            ends[index] = min(ends[index], match.start())
    return ends


def _begins_line(output: bytes, at: int) -> bool:
    before = output[max(0, at - _MAX_INDENT) : at].rstrip(b" \t\r")
    return before.endswith(b"\n") or not before


def _cut(output: bytes, start: int, warnings: list[str], *, several: bool) -> bytes:
    """Return an output from its root element on, without unread elements."""
    starts = _gpu_starts(output, start)
    if not starts:
        return output[start:]
    kept = [output[start : starts[0]]]
    at = starts[0]
    for begin, end in zip(starts, _ends(output, starts, several=several), strict=True):
        for unread, after in unread_parts(output, begin, end, warnings):
            kept.append(output[at:unread])
            at = after
    kept.append(output[at:])
    return b"".join(kept)
