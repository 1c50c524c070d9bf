"""Labels of metrics: whatever nodes and servers say, both parsers of Prometheus' formats read it back."""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic

from collector.exposition import families
from collector.exposition.cluster_metrics import FAMILY
from collector.exposition.gpu_counts import GpuState
from collector.health import Health
from collector.marks import Mark, MarkedGpu, MarkKind
from collector.model import Gpu, LastReport, NodeInfo, NodeState, Place, Unseen
from tests.exposition.test_exposition import shown
from tests.fuzz.documents import any_text
from tests.fuzz.target import Target, Targets

__all__ = ["TARGETS"]

TIME = 1764000000.5
LABELS = {"zone": "label_zone", "a/b": "label_a_b_conflict1", "a.b": "label_a_b_conflict2"}  # as they are published
WORN = Health(
    row_remap_failure=True, remapped_rows_uncorrectable=2, retired_pages_single_bit=3, ecc_dram_uncorrectable=4
)
# What a GPU is; ALIKE: its model and chassis are those of the first one.
VIRTUAL, LAST_KNOWN, DAMAGED, LOST, ALIKE = (1 << bit for bit in range(5))
MAX_GPUS = 4

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, float]
GpuTexts = tuple[int, str, str, str, str]  # what it is, UUID, serial, model, chassis


class NodeTexts(NamedTuple):
    """What else labels show."""

    cluster: str
    node: str
    provider_id: str
    driver: str
    cuda: str
    ticket: str
    values: tuple[str, ...]  # of LABELS


def _labels(given: tuple[bool, tuple[Any, ...], list[GpuTexts]]) -> None:
    read, texts, gpu_texts = given
    node = NodeTexts(*texts)
    gpus = [*_gpus(gpu_texts)]
    state = _state(node, gpus, TIME if read else None)
    marks = [
        MarkedGpu(gpu.serial or "", gpu.uuid, Mark(kind=MarkKind.RMA, ticket=node.ticket, set_at=TIME, set_by=""))
        for gpu, _ in gpus
    ]
    models = {_shown(gpu.model or ""): gpu.model or "" for gpu, _ in gpus}.values()
    blocks = families.render(state, families.label_names(list(LABELS)), "cluster")
    parts = [
        *(families.header(family) + block for family, block in zip(families.NODE_FAMILIES, blocks, strict=True)),
        families.header(FAMILY["gpuid_gpus"]),
        families.gpu_lines(node.cluster, dict.fromkeys([(model, GpuState.HEALTHY) for model in models], 1), "cluster"),
        families.render_marks(marks),
    ]
    text = b"".join(parts).decode()
    expected = sorted([*_node_samples(node, gpus, read=read), *_gpu_samples(node, gpus)])
    for parse in (classic, lambda text: openmetrics(text + "# EOF\n")):
        assert sorted(_samples(parse, text)) == expected


def _gpus(texts: list[GpuTexts]) -> Iterator[tuple[Gpu, int]]:
    """Yield GPUs whose UUIDs differ as labels, and what each is."""
    seen = set[str]()
    for kind, uuid, serial, model, chassis in texts[:MAX_GPUS]:
        if _shown(uuid) in seen:
            continue
        seen.add(_shown(uuid))
        board = texts[0][3:] if kind & ALIKE else (model, chassis)
        yield (
            Gpu(
                uuid=uuid,
                serial=serial or None,
                model=board[0] or None,
                chassis=board[1] or None,
                virtual=bool(kind & VIRTUAL),
                last_known=(LastReport("serial", TIME),) if kind & LAST_KNOWN else (),
                health=WORN if kind & DAMAGED else None,
            ),
            kind,
        )


def _state(node: NodeTexts, gpus: list[tuple[Gpu, int]], time: float | None) -> NodeState:
    return NodeState(
        place=Place(node.cluster, node.node),
        node=NodeInfo(
            name=node.node,
            provider_id=node.provider_id,
            capacity=8,
            allocatable=7,
            labels=tuple(zip(LABELS, node.values, strict=True)),
        ),
        time=time,
        driver_version=node.driver or None,
        cuda_version=node.cuda or None,
        gpus=tuple(gpu for gpu, _ in gpus),
        since=(TIME,) * len(gpus),
        unseen=tuple(Unseen(gpu.uuid, TIME, lost=True) for gpu, kind in gpus if kind & LOST),
    )


def _samples(parse: Callable[[str], Iterable[Any]], text: str) -> Iterator[Sample]:
    for family in parse(text):
        for name, labels, value, *_ in family.samples:
            yield name, tuple(sorted(labels.items())), value


def _sample(name: str, value: float = 1.0, /, **labels: str) -> Sample:
    return name, tuple(sorted((label, _shown(text)) for label, text in labels.items())), value


def _node_samples(node: NodeTexts, gpus: list[tuple[Gpu, int]], *, read: bool) -> Iterator[Sample]:
    where = {"cluster": node.cluster, "node": node.node}
    lost = sum(bool(kind & LOST) for _, kind in gpus)
    for state, count in (("found", len(gpus) - lost if read else None), ("lost", lost or None), ("capacity", 8)):
        if count is not None:
            yield _sample("gpuid_node_gpus", count, **where, state=state)
    yield _sample("gpuid_node_gpus", 7, **where, state="allocatable")
    if read:
        yield _sample("gpuid_node_read_timestamp_seconds", TIME, **where)
        yield _sample(
            "gpuid_node_info",
            **where,
            machine=node.provider_id.split("/")[-1],
            provider_id=node.provider_id,
            chassis=",".join(sorted({gpu.chassis for gpu, _ in gpus if gpu.chassis})),
            driver_version=node.driver,
            cuda_version=node.cuda,
            **dict(zip(LABELS.values(), node.values, strict=True)),
        )


def _gpu_samples(node: NodeTexts, gpus: list[tuple[Gpu, int]]) -> Iterator[Sample]:
    where = {"cluster": node.cluster, "node": node.node}
    for model in {_shown(gpu.model or "") for gpu, _ in gpus}:
        yield _sample("gpuid_gpus", cluster=node.cluster, model=model, state="healthy")
    for gpu, kind in gpus:
        which = {"serial": gpu.serial or "", "uuid": gpu.uuid}
        model = gpu.model or ""
        yield _sample("gpuid_gpu_mark_info", **which, mark="rma", ticket=node.ticket)
        which |= where
        if kind & VIRTUAL:
            yield _sample("gpuid_vgpu_info", **where, uuid=gpu.uuid, model=model)
        else:
            yield _sample("gpuid_gpu_info", **which, model=model, chassis=gpu.chassis or "")
        if kind & LAST_KNOWN:
            yield _sample("gpuid_gpu_last_reported_timestamp_seconds", TIME, **which, field="serial")
        if kind & LOST:
            yield _sample("gpuid_gpu_degraded", **which, reason="lost", level="reset")
        if kind & DAMAGED:
            yield _sample("gpuid_gpu_degraded", **which, reason="row_remap_failure", level="replace")
            yield _sample("gpuid_gpu_remapped_rows", 2, **which, kind="uncorrectable")
            yield _sample("gpuid_gpu_retired_pages", 3, **which, cause="single_bit")
            yield _sample("gpuid_gpu_ecc_errors", 4, **which, memory="dram", kind="uncorrectable")


_shown = functools.lru_cache(maxsize=4096)(shown)

label_texts = any_text | st.sampled_from(['a"b', "a/b", "\\n", "\\", "\n", "\r", "\x85", "\u2028"])
node_texts = st.tuples(*[label_texts] * (len(NodeTexts._fields) - 1), st.tuples(*[label_texts] * len(LABELS)))
gpu_texts = st.tuples(st.integers(0, 2 * ALIKE - 1), *[label_texts] * 4)

TARGETS: Targets = {
    "labels": Target(_labels, st.tuples(st.booleans(), node_texts, st.lists(gpu_texts, max_size=MAX_GPUS)))
}
