"""The labels that name a node's GPUs and chassis, in the scheme of the Go program of the same name. No I/O.

For at most one chassis: `chassis`, `chassis-count` and `gpu-N`; for several: `chassis-N` and `chassis-N-gpu-M`. Numbers
start at 0, in the order of serials and not of GPUs, and boards that share a serial have one label.
"""

import re
from collections.abc import Iterable, Mapping

from collector.model import Gpu

__all__ = ["LABEL_FORM", "LABEL_PREFIX", "MAX_OWN_LABELS", "gpu_labels", "is_gpu_label", "label_changes", "own_labels"]

LABEL_PREFIX = "gpuid.github.com/"
LABEL_FORM = r"gpu-[0-9]{1,5}|chassis(?:-count|-[0-9]{1,5}(?:-gpu-[0-9]{1,5})?)?"  # what follows; also in RE2
MAX_VALUE_LENGTH = 63  # of a label, as the API server accepts it
MAX_GPUS = 256  # of a node that get a label; the largest machines have 16
MAX_OWN_LABELS = 2 * MAX_GPUS + 1  # of a node that are kept: the most that we ever write

_ABSENT = "N/A"  # what nvidia-smi prints instead of a serial
_NOT_SET = "na"  # label value for those
_ILLEGAL = re.compile(r"[^A-Za-z0-9_.-]")
_ILLEGAL_ENDS = re.compile(r"\A[^A-Za-z0-9]+|[^A-Za-z0-9]+\Z")
_NAME = re.compile(LABEL_FORM)


def gpu_labels(gpus: Iterable[Gpu]) -> dict[str, str]:
    """Return the labels of a node with these GPUs, by key; none without GPUs."""
    units: dict[str, set[str]] = {}  # the serials in each chassis
    for gpu in gpus:
        units.setdefault(gpu.chassis or _ABSENT, set()).add(gpu.serial or _ABSENT)
    labels: dict[str, str] = {}
    several, chassis_count, left = len(units) > 1, 0, MAX_GPUS
    for number, (chassis, serials) in enumerate(sorted(units.items())):
        value, group = label_value(chassis), ""
        if value != _NOT_SET:
            group = f"chassis-{number}-" if several else ""
            labels[LABEL_PREFIX + (f"chassis-{number}" if several else "chassis")] = value
            chassis_count += 1
        for index, serial in enumerate(sorted(serials)[:left]):
            labels[f"{LABEL_PREFIX}{group}gpu-{index}"] = label_value(serial)
        left -= min(left, len(serials))
        if not left:
            break
    if chassis_count:
        labels[f"{LABEL_PREFIX}chassis-count"] = str(chassis_count)
    return labels


def label_value(text: str) -> str:
    """Return a text as a label value: invalid characters become hyphens, or are stripped from the ends."""
    if text in ("", _ABSENT):
        return _NOT_SET
    legal = _ILLEGAL_ENDS.sub("", _ILLEGAL.sub("-", text))
    return _ILLEGAL_ENDS.sub("", legal[:MAX_VALUE_LENGTH]) or _NOT_SET


def is_gpu_label(key: str) -> bool:
    """Return whether a label belongs to the scheme; others with its prefix are not ours."""
    return key.startswith(LABEL_PREFIX) and _NAME.fullmatch(key, len(LABEL_PREFIX)) is not None


def own_labels(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return a node's labels that belong to the scheme, sorted, at most as many as the largest node has."""
    return tuple(sorted((key, value) for key, value in labels.items() if is_gpu_label(key))[:MAX_OWN_LABELS])


def label_changes(present: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str | None]:
    """Return the changes that give a node the wanted labels and no others of the scheme; None removes one."""
    changes: dict[str, str | None] = {key: value for key, value in wanted.items() if present.get(key) != value}
    return changes | dict.fromkeys(key for key in present if key not in wanted)
