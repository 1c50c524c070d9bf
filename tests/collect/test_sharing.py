"""How many GPUs a node's capacity stands for, by labels and by what its readings found, one after the other."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.collect.sharing import GpuLabels, count_gpus, learn, units_per_gpu
from collector.model import Sharing

NO_LABELS = GpuLabels()
TWO = GpuLabels(shares=2)


class Read(NamedTuple):
    """One reading: what was found, what Kubernetes advertised, and the capacity in GPUs that this must make."""

    found: int
    capacity: int | None
    allocatable: int | None
    gpus: int | None
    labels: GpuLabels = NO_LABELS
    mig: bool = False
    rebooted: bool = False


class Changed(NamedTuple):
    """A change of the advertised amounts that no reading has followed yet."""

    capacity: int | None
    gpus: int | None


def replay(steps: "list[Read | Changed]") -> list[int | None]:
    """Return the capacity in GPUs after each step."""
    sharing: Sharing | None = None
    labels, counts = NO_LABELS, []
    for step in steps:
        if isinstance(step, Read):
            labels = step.labels
            sharing = learn(
                sharing,
                labels,
                capacity=step.capacity,
                allocatable=step.allocatable,
                found=step.found,
                mig=step.mig,
                rebooted=step.rebooted,
            )
        counts.append(count_gpus(step.capacity, units_per_gpu(step.capacity, labels, sharing)))
    return counts


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([Read(8, 8, 8, 8)], id="whole GPUs"),
        pytest.param([Read(4, 16, 16, 4)], id="time-slicing without GFD (k8s-device-plugin#461)"),
        pytest.param([Read(8, 80, 80, 8)], id="HAMi with its default of 10"),
        pytest.param([Read(2, 14, 14, 2, mig=True)], id="MIG single without GFD"),
        pytest.param([Read(1, 10, 10, 1)], id="one GPU, shared"),
        pytest.param([Read(16, 16, 16, 16)], id="16 GPUs"),
        pytest.param([Read(20, 20, 20, 20)], id="more GPUs than usual"),
        pytest.param([Read(8, 32, 32, 8, GpuLabels(shares=4))], id="the label is right"),
        pytest.param([Read(4, 16, 16, 4, GpuLabels(shares=1))], id="the label says 1 (gpu-feature-discovery#76)"),
        pytest.param([Read(4, 16, 16, 4, GpuLabels(shares=2))], id="the label says too little"),
        pytest.param([Read(8, 8, 8, 8, GpuLabels(shares=4))], id="the label says too much"),
        pytest.param([Read(8, 32, 32, 8, GpuLabels(shares=5))], id="the label does not divide"),
        pytest.param([Read(8, 32, 32, 8, GpuLabels(shares=0))], id="the label is no number"),
        pytest.param([Read(4, 8, 6, 4)], id="shared, and one that is found is unhealthy"),
        pytest.param([Read(8, 8, 8, 8), Read(8, 32, 32, 8), Read(8, 8, 8, 8)], id="sharing is switched on and off"),
        pytest.param([Read(8, 32, 32, 8), Read(8, 16, 16, 8), Read(8, 64, 64, 8)], id="the number of shares changes"),
        pytest.param([Read(4, 16, 16, 4), Read(8, 32, 32, 8)], id="GPUs are added"),
        pytest.param([Read(8, 8, 8, 8), Read(4, 4, 4, 4)], id="GPUs are taken out"),
        pytest.param([Read(8, 8, 8, 8), Read(4, 8, 8, 4, rebooted=True)], id="shared GPUs instead, after a boot"),
        pytest.param([Read(0, 8, 8, 8)], id="nothing is found"),
        pytest.param([Read(8, None, None, None), Read(8, 32, 32, 8)], id="the device plugin comes later"),
        pytest.param([Read(8, 32, 32, 8), Read(8, 0, 0, 0), Read(8, 32, 32, 8)], id="the device plugin goes and comes"),
        pytest.param([Read(8, 4, 4, 4)], id="more are found than Kubernetes counts"),
        pytest.param([Read(21, 20, 20, 20)], id="more than usual, and more are found"),
        pytest.param([Read(8, 32, 32, 8), Read(9, 32, 32, 8), Read(8, 32, 32, 8)], id="one more for a while, shared"),
        pytest.param(
            [Read(3, 6, 6, 3, TWO), Read(4, 6, 6, 3, TWO), Read(3, 6, 6, 3, TWO)], id="one more for a while, labelled"
        ),
        pytest.param([Read(3, 6, 6, 3), Read(6, 6, 6, 6)], id="whole GPUs instead of shared ones"),
        pytest.param([Read(8, 56, 56, None, GpuLabels(instances=True))], id="labels of MIG"),
    ],
)
def test_gpus_that_are_not_lost_are_not_missing(steps: list[Read]) -> None:
    assert replay([*steps]) == [step.gpus for step in steps]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([Read(8, 8, 8, 8), Read(7, 8, 7, 8)], id="1 of 8"),
        pytest.param([Read(8, 8, 8, 8), Read(7, 8, 8, 8)], id="1 of 8, unnoticed"),
        pytest.param([Read(8, 8, 8, 8), Read(4, 8, 8, 8), Read(4, 8, 4, 8)], id="half of them, unnoticed at first"),
        pytest.param([Read(8, 32, 32, 8), Read(7, 32, 28, 8)], id="1 of 8 shared"),
        pytest.param([Read(8, 32, 32, 8), Read(7, 32, 32, 8)], id="1 of 8 shared, unnoticed"),
        pytest.param([Read(8, 32, 32, 8), Read(4, 32, 32, 8), Read(2, 32, 16, 8)], id="half and more of them, shared"),
        pytest.param([Read(8, 32, 32, 8, GpuLabels(shares=4)), Read(7, 32, 28, 8, GpuLabels(shares=4))], id="labelled"),
        pytest.param([Read(7, 32, 32, 8, GpuLabels(shares=4))], id="labelled, unnoticed, at the first reading"),
        pytest.param([Read(2, 14, 14, 2, mig=True), Read(1, 14, 7, 2, mig=True)], id="1 of 2 with MIG"),
        pytest.param([Read(7, 8, 7, 8)], id="1 of 8 at the first reading"),
        pytest.param([Read(7, 8, 8, 8)], id="1 of 8 at the first reading, unnoticed"),
        pytest.param([Read(3, 8, 8, 8)], id="5 of 8 at the first reading, unnoticed"),
        pytest.param([Read(3, 8, 8, 8, GpuLabels(shares=4))], id="5 of 8, and the label says too much"),
        pytest.param([Read(3, 8, 8, 4, TWO)], id="1 of 4 shared, labelled, at the first reading, unnoticed"),
        pytest.param([Read(7, 16, 16, 16)], id="9 of 16, the most that are usual, at the first reading, unnoticed"),
        pytest.param([Read(8, 18, 18, 9)], id="more than usual, unnoticed: the fewest that can be"),
        pytest.param([Read(4, 8, 4, 8), Read(4, 8, 4, 8)], id="half of them at the first reading"),
        pytest.param([Read(7, 32, 28, 8)], id="1 of 8 shared at the first reading"),
        pytest.param([Read(7, 32, 32, 8)], id="1 of 8 shared at the first reading, unnoticed: the fewest that can be"),
        pytest.param([Read(7, 80, 70, 8)], id="1 of 8 with HAMi at the first reading"),
        pytest.param([Read(1, 14, 7, 2, mig=True)], id="1 of 2 with MIG at the first reading"),
        pytest.param([Read(4, 8, 8, 8, GpuLabels(machine=8))], id="the machine's type is known"),
        pytest.param([Read(4, 32, 32, 8, GpuLabels(machine=8))], id="the machine's type is known, and it is shared"),
        pytest.param([Read(7, 32, 32, 8), Read(8, 32, 32, 8), Read(7, 32, 32, 8)], id="one that comes and goes"),
        pytest.param(
            [Read(8, 32, 32, 8), Read(7, 28, 28, 7), Read(7, 32, 32, 8)], id="it is back for Kubernetes alone"
        ),
        pytest.param([Read(0, 8, 8, 8), Read(7, 8, 8, 8)], id="first all, then one"),
        pytest.param([Read(8, 8, 8, 8), Read(9, 8, 8, 8), Read(4, 8, 8, 8)], id="half, after one more was found"),
        pytest.param([Read(4, 4, 4, 4), Read(5, 4, 4, 4), Read(2, 4, 4, 4)], id="half of four, after one more"),
        pytest.param(
            [Read(2, 2, 2, 2, mig=True), Read(3, 2, 2, 2, mig=True), Read(1, 2, 2, 2, mig=True)], id="with MIG, as well"
        ),
    ],
)
def test_lost_gpus_are_missing(steps: list[Read]) -> None:
    assert replay([*steps]) == [step.gpus for step in steps]
    assert steps[-1].found < (steps[-1].gpus or 0)


@pytest.mark.parametrize(
    ("read", "changed"),
    [
        pytest.param(Read(8, 32, 32, 8), Changed(28, 7), id="the device plugin restarts without a lost one"),
        pytest.param(Read(7, 28, 28, 7), Changed(32, 8), id="it is back"),
        pytest.param(Read(8, 32, 32, 8), Changed(0, 0), id="the device plugin is gone"),
        pytest.param(Read(8, 32, 32, 8), Changed(None, None), id="the node is new"),
        pytest.param(Read(8, 8, 8, 8), Changed(7, 7), id="whole GPUs"),
        pytest.param(Read(8, 32, 32, 8), Changed(30, 30), id="it fits nothing"),
    ],
)
def test_until_the_next_reading_changes_count_in_known_shares(read: Read, changed: Changed) -> None:
    assert replay([read, changed]) == [read.gpus, changed.gpus]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([Read(4, 8, 8, 4)], id="half are lost, unnoticed, at the first reading: as if shared twice"),
        pytest.param([Read(8, 11, 11, 11)], id="GPUs with different numbers of shares"),
        pytest.param([Read(2, 9, 9, None, mig=True)], id="MIG instances of different sizes, without labels"),
        pytest.param([Read(7, 8, 8, None, mig=True)], id="MIG instances, one more than GPUs"),
        pytest.param([Read(7, 8, None, None, mig=True)], id="the same, and nobody says how many are healthy"),
        pytest.param([Read(4, 8, 4, 8)], id="all are found, shared twice, and half of the shares are unhealthy"),
    ],
)
def test_ambiguous_counts_stay_unknown(steps: list[Read]) -> None:
    assert replay([*steps]) == [step.gpus for step in steps]


def test_a_better_reading_corrects_a_wrong_count() -> None:
    assert replay([Read(4, 8, 4, 8), Read(4, 8, 8, 4)]) == [8, 4]
    assert replay([Read(4, 8, 8, 4), Read(8, 8, 8, 8), Read(4, 8, 8, 8)]) == [4, 8, 8]


def test_gpus_that_kubernetes_did_not_count_do_not_make_a_capacity_unknown_once_they_are_taken_out() -> None:
    wrong = GpuLabels(shares=4)
    assert replay([Read(4, 3, 3, None, wrong), Read(3, 3, 3, 3, wrong)]) == [None, 3]
    assert replay([Read(5, 4, 4, None, mig=True), Read(4, 4, 4, 4, mig=True)]) == [None, 4]


def test_labels_count_before_the_first_reading() -> None:
    assert units_per_gpu(32, GpuLabels(shares=4)) == 4
    assert units_per_gpu(32, GpuLabels(shares=5)) == 0
    assert units_per_gpu(32, GpuLabels(machine=8)) == 4
    assert units_per_gpu(28, GpuLabels(machine=8, shares=4)) == 4
    assert units_per_gpu(0, GpuLabels(machine=8)) == 1
    assert units_per_gpu(None, NO_LABELS) == 0


def test_a_label_that_changes_counts_until_the_next_reading() -> None:
    sharing = learn(None, NO_LABELS, capacity=32, allocatable=32, found=8, mig=False, rebooted=False)
    assert units_per_gpu(32, GpuLabels(shares=2), sharing) == 2


def test_nodes_with_equal_knowledge_share_one_object() -> None:
    first, second = (
        learn(None, NO_LABELS, capacity=32, allocatable=32, found=8, mig=False, rebooted=False) for _ in range(2)
    )
    assert first is second


@given(
    gpus=st.integers(1, 16),
    shares=st.integers(1, 16),
    lost=st.integers(0, 15),
    noticed=st.booleans(),
)
def test_after_a_complete_reading_every_loss_shows(gpus: int, shares: int, lost: int, noticed: bool) -> None:
    lost = min(lost, gpus)
    capacity = gpus * shares
    left = (gpus - lost) * shares if noticed else capacity
    steps = [Read(gpus, capacity, capacity, gpus), Read(gpus - lost, capacity, left, gpus)]
    assert replay([*steps]) == [gpus, gpus]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 300),
            st.one_of(st.none(), st.integers(0, 400), st.integers(0, 10**24)),
            st.one_of(st.none(), st.integers(0, 400), st.integers(0, 10**24)),
            st.builds(
                GpuLabels, instances=st.booleans(), shares=st.integers(0, 10**18), machine=st.integers(0, 10**18)
            ),
            st.booleans(),
        ),
        max_size=5,
    )
)
def test_any_input_of_a_cluster_gives_a_count(
    readings: list[tuple[int, int | None, int | None, GpuLabels, bool]],
) -> None:
    steps = [Read(found, capacity, left, None, labels, mig) for found, capacity, left, labels, mig in readings]
    for gpus in replay([*steps]):
        assert gpus is None or gpus >= 0
