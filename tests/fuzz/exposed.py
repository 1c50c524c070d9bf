"""Labels of metrics: whatever nodes and servers say, both parsers of Prometheus' formats read it back."""

from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic

from collector.exposition import families
from collector.health import Health
from collector.model import Gpu, NodeInfo, NodeState, Place
from tests.fuzz.documents import any_text
from tests.fuzz.target import Target, Targets

__all__ = ["TARGETS"]


def _labels(given: tuple[str, ...]) -> None:
    cluster, node, serial, uuid, model, value = given
    gpu = Gpu(
        uuid=uuid, serial=serial, model=model, health=Health(remapped_rows_uncorrectable=2, row_remap_failure=True)
    )
    state = NodeState(
        place=Place(cluster, node),
        node=NodeInfo(name=node, labels=(("zone", value),)),
        time=1.0,
        gpus=(gpu,),
        since=(1.0,),
    )
    blocks = families.render(state, families.label_names(["zone"]), "cluster")
    text = b"".join(
        families.header(family) + block for family, block in zip(families.NODE_FAMILIES, blocks, strict=True)
    ).decode()
    read: tuple[Callable[[str], Iterable[Any]], ...] = (classic, lambda text: openmetrics(text + "# EOF\n"))
    for parse in read:
        samples = [sample for family in parse(text) for sample in family.samples if sample.name == "gpuid_gpu_info"]
        (labels,) = [sample.labels for sample in samples]
        expected = {"cluster": cluster, "node": node, "serial": serial, "uuid": uuid, "model": model, "chassis": ""}
        assert labels == {name: _shown(text) for name, text in expected.items()}


def _shown(text: str) -> str:
    """Return a text as a label can have it: in UTF-8, and without control characters that no line can have."""
    shown = "".join(
        "\N{REPLACEMENT CHARACTER}" if one != "\n" and families.escape(one) == "\N{REPLACEMENT CHARACTER}" else one
        for one in text
    )
    return shown.encode("utf-8", "replace").decode()


TARGETS: Targets = {
    "labels": Target(
        _labels, st.tuples(*[any_text | st.sampled_from(['a"b', "\\n", "\\", "\n", "\r", "\x85", "\u2028"])] * 6)
    ),
}
