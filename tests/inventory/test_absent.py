"""Which absent GPUs are remembered when there are too many."""

from collector.inventory.absent import Absent, AbsentGpus
from collector.model import Place

A, B = Place("east", "a"), Place("west", "b")


def test_the_longest_absent_of_a_cluster_are_forgotten_first() -> None:
    absent = AbsentGpus(3)
    for number in range(5):
        absent.add(f"GPU-{number}", A, float(number))
    assert list(absent.places()) == ["GPU-2", "GPU-3", "GPU-4"]


def test_one_cluster_cannot_evict_the_gpus_of_another() -> None:
    absent = AbsentGpus(10)
    for number in range(5):
        absent.add(f"GPU-{number}", A, 1.0)
    for number in range(1000):
        absent.add(f"GPU-made-up-{number}", B, 2.0)
    places = absent.places()
    assert len(places) == 10
    assert {f"GPU-{number}" for number in range(5)} <= places.keys()
    assert absent.pop("GPU-3") == Absent(A, 1.0)


def test_a_cluster_that_fills_the_limit_makes_room() -> None:
    absent = AbsentGpus(10)
    for number in range(1000):
        absent.add(f"GPU-made-up-{number}", B, 2.0)
    for number in range(5):
        absent.add(f"GPU-{number}", A, 1.0)
    assert [place.cluster for place in absent.places().values()].count("east") == 5


def test_a_gpu_that_leaves_again_counts_once_where_it_was_last() -> None:
    absent = AbsentGpus(10)
    absent.add("GPU-1", A, 1.0)
    absent.add("GPU-1", B, 2.0)
    assert absent.places() == {"GPU-1": B}
    absent.forget_cluster("east")
    assert absent.pop("GPU-1") == Absent(B, 2.0)
    assert absent.pop("GPU-1") is None


def test_a_cluster_is_forgotten_with_its_gpus() -> None:
    absent = AbsentGpus(10)
    absent.add("GPU-1", A, 1.0)
    absent.add("GPU-2", B, 1.0)
    absent.forget_cluster("east")
    assert absent.places() == {"GPU-2": B}
