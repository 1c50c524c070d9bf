"""Which configured clusters are one and the same, by the uids of their nodes."""

import pytest

from collector.collect.duplicates import Duplicate, DuplicateDetector
from collector.model import NodeInfo, Place

A, B = NodeInfo(name="a", uid="1"), NodeInfo(name="b", uid="2")


@pytest.fixture
def detector() -> DuplicateDetector:
    made = DuplicateDetector()
    made.set_order(["admin", "dev", "other"])
    return made


def test_clusters_without_a_common_node_are_different(detector: DuplicateDetector) -> None:
    assert detector.claim("admin", A) is None
    assert detector.claim("dev", B) is None
    assert detector.duplicates == {}


def test_nodes_of_one_name_with_different_uids_are_different(detector: DuplicateDetector) -> None:
    assert detector.claim("admin", A) is None
    assert detector.claim("dev", NodeInfo(name="a", uid="3")) is None


def test_nodes_without_a_uid_prove_nothing(detector: DuplicateDetector) -> None:
    assert detector.claim("admin", NodeInfo(name="a")) is None
    assert detector.claim("dev", NodeInfo(name="a")) is None


def test_a_cluster_can_claim_its_own_nodes_again(detector: DuplicateDetector) -> None:
    assert detector.claim("admin", A) is None
    assert detector.claim("admin", A) is None


def test_of_two_clusters_the_later_is_the_duplicate(
    detector: DuplicateDetector,
) -> None:
    expected = Duplicate("dev", Place("admin", "a"), "1")
    detector.claim("admin", A)
    assert detector.claim("dev", A) == expected
    assert detector.duplicates == {"dev": expected}
    assert str(expected) == (
        'it is the same cluster as "admin" (node a has the same uid in both); remove one of the two from the'
        " configuration"
    )


def test_the_later_cluster_is_the_duplicate_whichever_claims_first(detector: DuplicateDetector) -> None:
    detector.claim("dev", A)
    detector.claim("dev", B)
    assert detector.claim("admin", A) == Duplicate("dev", Place("admin", "a"), "1")
    assert detector.claim("other", B) is None  # what the duplicate had is forgotten


def test_nodes_of_an_earlier_run_count(detector: DuplicateDetector) -> None:
    detector.recall("admin", A)
    assert detector.claim("dev", A) == Duplicate("dev", Place("admin", "a"), "1")


def test_a_duplicate_ends_with_the_node_that_revealed_it(detector: DuplicateDetector) -> None:
    detector.claim("admin", A)
    detector.claim("admin", B)
    detector.claim("dev", A)
    assert list(detector.release("admin", B)) == []
    assert list(detector.release("dev", A)) == []  # a duplicate owns no node
    assert list(detector.release("admin", A)) == ["dev"]
    assert detector.duplicates == {}


@pytest.mark.parametrize("order", [["dev", "other"], ["dev", "admin", "other"]])
def test_a_duplicate_ends_when_the_other_is_removed_or_reordered(detector: DuplicateDetector, order: list[str]) -> None:
    detector.claim("admin", A)
    detector.claim("dev", A)
    assert list(detector.set_order(order)) == ["dev"]
    detector.claim("dev", A)
    assert "dev" not in detector.duplicates


def test_a_cluster_removed_from_the_configuration_claims_nothing(detector: DuplicateDetector) -> None:
    detector.set_order(["dev"])
    assert detector.claim("admin", A) is None
    assert detector.claim("dev", A) is None


def test_a_duplicate_removed_from_the_configuration_is_forgotten(detector: DuplicateDetector) -> None:
    detector.claim("admin", A)
    detector.claim("dev", A)
    assert list(detector.set_order(["admin", "other"])) == []
    assert detector.duplicates == {}
