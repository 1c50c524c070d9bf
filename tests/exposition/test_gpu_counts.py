"""Each known GPU counts once: as healthy, degraded, unreadable or missing."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from collector.exposition import gpu_counts
from collector.exposition.gpu_counts import MAX_MODELS, GpuCounts, GpuState, Share
from collector.health import Health
from collector.model import (
    ClusterState,
    Failing,
    Gpu,
    NodeInfo,
    NodeState,
    Place,
    ReadFailure,
    SilentGpu,
    Uncovered,
    Unread,
    Unseen,
)
from tests.exposition.test_exposition import families

pytestmark = pytest.mark.anyio

NOW = 1764000000.0
H100, H200 = "NVIDIA H100 80GB HBM3", "NVIDIA H200"
BAD = Health(row_remap_failure=True)
FAILING = Failing(reason=ReadFailure.TIMEOUT, since=NOW, message="")
D, U, H, M = GpuState.DEGRADED, GpuState.UNREADABLE, GpuState.HEALTHY, GpuState.MISSING


def gpu(number: int, **facts: Any) -> Gpu:
    return Gpu(**{"uuid": f"GPU-{number}", "serial": str(number), "model": H100, **facts})


def node(*gpus: Gpu, name: str = "n", capacity: int | None = None, **facts: Any) -> NodeState:
    return NodeState(
        place=Place("c", name),
        node=NodeInfo(name=name, capacity=capacity),
        gpus=gpus,
        since=(NOW,) * len(gpus),
        **{"time": NOW, **facts},
    )


def counted(*states: NodeState, up: bool = True) -> dict[tuple[str, GpuState], int]:
    counts = GpuCounts()
    counts.update({state.place: state for state in states})
    return counts.of("c", up=up)


TWO = (gpu(0), gpu(1))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (node(*TWO), {(H100, H): 2}),
        (node(*TWO, capacity=2), {(H100, H): 2}),
        (node(*TWO, capacity=8), {(H100, H): 2, (H100, M): 6}),
        (node(*TWO, capacity=1), {(H100, H): 2}),
        (node(gpu(0), gpu(1, health=BAD)), {(H100, H): 1, (H100, D): 1}),
        (node(gpu(0, health=Health(ecc_dram_correctable=9))), {(H100, H): 1}),
        (node(*TWO, capacity=3, unseen=(Unseen("GPU-0", NOW, lost=True),)), {(H100, H): 1, (H100, D): 1, (H100, M): 1}),
        (node(*TWO, capacity=2, unseen=(Unseen("GPU-0", NOW, lost=False),)), {(H100, H): 2}),
        (node(gpu(0), gpu(1, health=BAD), failing=FAILING), {(H100, H): 0, (H100, U): 1, (H100, D): 1}),
        (node(*TWO, uncovered=Unread(Uncovered.NO_POD, NOW)), {(H100, H): 0, (H100, U): 2}),
        (node(capacity=8, time=None), {("", H): 0, ("", U): 8}),
        (node(capacity=None, time=None), {}),
        (node(*TWO, capacity=8, time=None), {(H100, H): 0, (H100, U): 8}),
        (node(capacity=4), {("", H): 0, ("", M): 4}),
        (node(gpu(0), gpu(1, model=H200), capacity=3), {(H100, H): 1, (H200, H): 1, ("", H): 0, ("", M): 1}),
        (node(gpu(0, model=None)), {("", H): 1}),
        (node(gpu(0, virtual=True), capacity=1), {}),
        (node(*TWO, claims=frozenset({"GPU-0"})), {(H100, H): 1}),
        # An address that does not respond is a GPU that is known by nothing else,
        (node(*TWO, capacity=3, silent=(SilentGpu("00000000:AA:00.0", NOW, "b"),)), {(H100, H): 2, (H100, D): 1}),
        # or most likely the one that was there.
        (
            node(
                gpu(0, pci_bus_id="0000:aa:00.0"), gpu(1), capacity=2, silent=(SilentGpu("00000000:AA:00.0", NOW, "b"),)
            ),
            {(H100, H): 1, (H100, D): 1},
        ),
    ],
)
def test_the_gpus_of_a_node_are_counted(state: NodeState, expected: dict[tuple[str, GpuState], int]) -> None:
    assert counted(state) == expected
    physical = not any(one.virtual for one in state.gpus) and not state.claims
    if state.time is not None and physical:
        missing = max(0, (state.node.capacity or 0) - (state.found or 0) - state.lost)
        assert sum(expected.values()) == (state.found or 0) + state.lost + missing


def test_a_cluster_that_is_not_up_has_no_healthy_gpu() -> None:
    assert counted(node(gpu(0), gpu(1, health=BAD), capacity=3), up=False) == {
        (H100, H): 0,
        (H100, U): 1,
        (H100, D): 1,
        (H100, M): 1,
    }


def test_the_number_of_models_of_a_cluster_is_bounded() -> None:
    states = [node(gpu(n, model=f"model {n}"), name=f"n{n}") for n in range(MAX_MODELS + 50)]
    states.append(node(gpu(1000, model="model 113"), name="another"))
    found = counted(*states)
    assert len({model for model, _ in found}) == MAX_MODELS + 1
    assert sum(found.values()) == len(states)
    assert found["model 113", H] == 2
    assert found["", H] == 50


def test_a_share_is_undefined_without_known_gpus() -> None:
    assert Share().ratio is None
    assert Share() == Share(0, 0)
    assert Share(3, 4).plus(Share(1, 2)) == Share(4, 6)
    assert Share(3, 6).ratio == 0.5


def by_state(counts: dict[tuple[str, GpuState], int]) -> Counter[GpuState]:
    found: Counter[GpuState] = Counter()
    for (_, state), count in counts.items():
        found[state] += count
    return found


names = st.sampled_from(["n0", "n1", "n2"])
gpus = st.lists(
    st.builds(
        gpu,
        st.integers(0, 5),
        model=st.sampled_from([H100, H200, None]),
        health=st.sampled_from([None, BAD, Health(row_remap_failure=False)]),
    ),
    max_size=4,
    unique_by=lambda one: one.uuid,
)
states = st.builds(
    lambda gpus, **facts: node(*gpus, **facts),
    gpus,
    name=names,
    capacity=st.none() | st.integers(0, 6),
    time=st.none() | st.just(NOW),
    failing=st.none() | st.just(FAILING),
)


@given(st.lists(st.tuples(names, st.none() | states)), st.booleans())
def test_incremental_counts_equal_a_full_count(steps: list[tuple[str, NodeState | None]], up: bool) -> None:
    counts, there = GpuCounts(), dict[Place, NodeState]()
    for name, state in steps:
        place = Place("c", name)
        moved = None if state is None else msgspec.structs.replace(state, place=place)
        counts.update({place: moved})
        if moved is None:
            there.pop(place, None)
        else:
            there[place] = moved
    fresh = GpuCounts()
    fresh.update(there)
    assert by_state(counts.of("c", up=up)) == by_state(fresh.of("c", up=up))
    if all(state.gpus for state in there.values()):  # none of them is dark, and has the model that it had
        assert counts.of("c", up=up) == fresh.of("c", up=up)
    if not there:
        assert not counts.of("c", up=up)


async def test_a_scrape_has_the_gpus_of_each_cluster(bench: Any) -> None:
    bench.metrics.add_cluster("prod")
    bench.metrics.add_cluster("away")
    bench.metrics.cluster_state("prod", ClusterState.UP)
    bench.read("prod", "n1", gpu(0), gpu(1, health=BAD))
    bench.read("away", "n1", gpu(2, model='evil "\n\x00\ud800'))
    assert families(await bench.text())["gpuid_gpus"] == [
        'gpuid_gpus{cluster="prod",model="NVIDIA H100 80GB HBM3",state="degraded"} 1',
        'gpuid_gpus{cluster="prod",model="NVIDIA H100 80GB HBM3",state="healthy"} 1',
        'gpuid_gpus{cluster="prod",model="NVIDIA H100 80GB HBM3",state="missing"} 6',
        'gpuid_gpus{cluster="away",model="evil \\"\\n\N{REPLACEMENT CHARACTER}?",state="healthy"} 0',
        'gpuid_gpus{cluster="away",model="evil \\"\\n\N{REPLACEMENT CHARACTER}?",state="missing"} 7',
        'gpuid_gpus{cluster="away",model="evil \\"\\n\N{REPLACEMENT CHARACTER}?",state="unreadable"} 1',
    ]
    assert "gpuid_gpus" not in families(await bench.text(clusters=["other"]))
    samples = [
        (sample.labels["cluster"], sample.labels["state"], sample.value)
        for family in text_string_to_metric_families(await bench.text(openmetrics=True))
        for sample in family.samples
        if sample.name == "gpuid_gpus"
    ]
    assert ("prod", "missing", 6.0) in samples
    assert len(samples) == 6
    model = 'model="evil \\"\\n\N{REPLACEMENT CHARACTER}?"'
    assert any(model in line for line in families(await bench.text())["gpuid_gpu_info"])  # they can be joined


def test_an_unreadable_node_keeps_the_model_of_its_gpus() -> None:
    """As after its grace period: no GPU of it is known any more, but its capacity."""
    counts = GpuCounts()
    counts.update({Place("c", "n"): node(*TWO, capacity=2), Place("c", "m"): node(gpu(2), name="m", capacity=1)})
    counts.update({Place("c", "n"): node(capacity=2, time=None, uncovered=Unread(Uncovered.NO_POD, NOW))})
    assert counts.of("c", up=True) == {(H100, H): 1, (H100, U): 2}
    counts.update({Place("c", "n"): None})
    counts.update({Place("c", "n"): node(capacity=2, time=None)})
    assert counts.of("c", up=True) == {(H100, H): 1, ("", H): 0, ("", U): 2}


def test_the_number_of_models_of_a_node_is_bounded() -> None:
    many = [Gpu(uuid=f"GPU-{index}", model=f"model {index // 2}") for index in range(20)]
    counts = counted(node(*many))
    assert len(counts) <= 5
    assert sum(counts.values()) == 20


def test_the_rarest_models_of_a_node_count_as_unknown() -> None:
    """Among equally rare ones, the last by name."""
    models = ("e", "e", "d", "c", "b", "a")
    gpus = [Gpu(uuid=f"GPU-{index}", model=model) for index, model in enumerate(models)]
    assert counted(node(*gpus)) == {("e", H): 2, ("a", H): 1, ("b", H): 1, ("c", H): 1, ("", H): 1}


def test_a_cluster_has_a_total() -> None:
    counts = GpuCounts()
    counts.update({Place("c", "n"): node(*TWO, capacity=3), Place("c", "m"): node(gpu(2), name="m")})
    assert (counts.total("c"), counts.total("other")) == (4, 0)


def test_a_node_that_is_gone_leaves_nothing() -> None:
    counts = GpuCounts()
    virtual = node(gpu(0, virtual=True), name="v")
    counts.update({Place("c", "n"): node(*TWO), Place("c", "m"): node(gpu(2), name="m"), Place("c", "v"): virtual})
    counts.update({Place("c", "m"): None, Place("c", "v"): None})
    counts.update({Place("c", "n"): node(capacity=2, time=None, uncovered=Unread(Uncovered.NO_POD, NOW))})
    assert counts.of("c", up=True) == {(H100, H): 0, (H100, U): 2}
    counts.update({Place("c", "n"): None})
    assert not any(vars(counts).values())


def test_nodes_with_equal_counts_share_them() -> None:
    """Whatever the order of their GPUs."""
    one, other = gpu(0), gpu(1, model="shared by two nodes")
    before = gpu_counts._shared.cache_info()
    counted(node(one, other, name="n"), node(other, one, name="m"))
    after = gpu_counts._shared.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 1)


def test_counts_that_may_be_invented_are_not_kept_forever() -> None:
    models = [Gpu(uuid=f"GPU-{index}", model=f"model {index}") for index in range(3)]
    counts = GpuCounts()
    before = gpu_counts._shared.cache_info().currsize
    counts.update({Place("c", "n"): node(*models)})
    assert gpu_counts._shared.cache_info().currsize == before
    assert (gpu_counts._shared.cache_info().maxsize or 0) <= 256
