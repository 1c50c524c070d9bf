"""What one node's lines say, whatever its names contain: read back by prometheus-client's parser."""

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector.exposition.families import render
from collector.model import Gpu, NodeInfo, NodeState, Place

ODD = ["plain", 'quote "', "back \\ slash", "line\nfeed", "quote\\", "Zürich", ""]
EVEN_QUOTES = ['"a"', '"b"']  # as many as the lines of two GPUs add


def node(*gpus: Gpu, name: str = "n", provider_id: str = "p") -> NodeState:
    info = NodeInfo(name=name, provider_id=provider_id)
    return NodeState(place=Place("c", name), node=info, time=1.0, gpus=gpus, since=(1.0,) * len(gpus))


def labels(state: NodeState, family: str) -> list[dict[str, str]]:
    text = b"".join(render(state, (), "cluster")).decode()
    found = text_string_to_metric_families(text)
    return [sample.labels for one in found for sample in one.samples if sample.name == family]


@pytest.mark.parametrize("serials", [*([one, one + "2"] for one in ODD), EVEN_QUOTES, ODD])
@pytest.mark.parametrize("model", ["H100", 'H"\\'])
def test_gpus_have_their_ids(serials: list[str], model: str) -> None:
    gpus = [Gpu(uuid=f"GPU-{at}", serial=one, model=model, chassis=model) for at, one in enumerate(serials)]
    found = labels(node(*gpus), "gpuid_gpu_info")
    assert [(one["serial"], one["uuid"], one["model"], one["chassis"]) for one in found] == [
        (gpu.serial, gpu.uuid, model, model) for gpu in gpus
    ]


def test_virtual_gpus_have_a_family_of_their_own() -> None:
    gpus = [Gpu(uuid="GPU-1", serial="1", model="H100"), Gpu(uuid="GPU-2", model="A16-4Q", virtual=True)]
    for order in (gpus, gpus[::-1]):
        assert [one["uuid"] for one in labels(node(*order), "gpuid_gpu_info")] == ["GPU-1"]
        assert [one["uuid"] for one in labels(node(*order), "gpuid_vgpu_info")] == ["GPU-2"]


@pytest.mark.parametrize("provider_id", ODD)
def test_a_node_has_its_provider_id(provider_id: str) -> None:
    (found,) = labels(node(Gpu(uuid="GPU-1"), provider_id=provider_id), "gpuid_node_info")
    assert found["provider_id"] == provider_id


def test_a_gpu_without_a_model_or_serial_has_empty_labels() -> None:
    (found,) = labels(node(Gpu(uuid="GPU-1")), "gpuid_gpu_info")
    assert (found["serial"], found["model"], found["chassis"]) == ("", "", "")
    state = msgspec.structs.replace(node(), time=None)
    assert labels(state, "gpuid_gpu_info") == labels(state, "gpuid_node_info") == []
