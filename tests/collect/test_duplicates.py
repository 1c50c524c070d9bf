"""Which configured clusters are one and the same, by the uids of their nodes."""

import pytest

from collector.collect.duplicates import Duplicate, DuplicateDetector
from collector.model import NodeInfo, Place

A, B = NodeInfo(name="a", uid="1"), NodeInfo(name="b", uid="2")


@pytest.fixture
def identities() -> DuplicateDetector:
    made = DuplicateDetector()
    made.follow(["admin", "dev", "other"])
    return made


def test_clusters_without_a_common_node_are_different(identities: DuplicateDetector) -> None:
    assert identities.claim("admin", A) is None
    assert identities.claim("dev", B) is None
    assert identities.duplicates == {}


def test_nodes_of_one_name_are_different_while_their_uids_are(identities: DuplicateDetector) -> None:
    assert identities.claim("admin", A) is None
    assert identities.claim("dev", NodeInfo(name="a", uid="3")) is None


def test_nodes_without_a_uid_prove_nothing(identities: DuplicateDetector) -> None:
    assert identities.claim("admin", NodeInfo(name="a")) is None
    assert identities.claim("dev", NodeInfo(name="a")) is None


def test_a_cluster_may_claim_its_own_nodes_again(identities: DuplicateDetector) -> None:
    assert identities.claim("admin", A) is None
    assert identities.claim("admin", A) is None


def test_of_two_clusters_with_one_node_the_later_in_the_configuration_is_the_duplicate(
    identities: DuplicateDetector,
) -> None:
    expected = Duplicate("dev", Place("admin", "a"), "1")
    identities.claim("admin", A)
    assert identities.claim("dev", A) == expected
    assert identities.duplicates == {"dev": expected}
    assert str(expected) == (
        'it is the cluster "admin" once more: node a is in both, with the uid 1; remove one of the two from the'
        " configuration"
    )


def test_it_is_so_too_when_the_later_one_was_heard_first(identities: DuplicateDetector) -> None:
    identities.claim("dev", A)
    identities.claim("dev", B)
    assert identities.claim("admin", A) == Duplicate("dev", Place("admin", "a"), "1")
    assert identities.claim("other", B) is None  # what the duplicate had counts no more


def test_what_an_earlier_run_knew_counts(identities: DuplicateDetector) -> None:
    identities.recall("admin", A)
    assert identities.claim("dev", A) == Duplicate("dev", Place("admin", "a"), "1")


def test_a_duplicate_ends_with_the_node_that_revealed_it(identities: DuplicateDetector) -> None:
    identities.claim("admin", A)
    identities.claim("admin", B)
    identities.claim("dev", A)
    assert list(identities.release("admin", B)) == []
    assert list(identities.release("dev", A)) == []  # it was never the duplicate's to release
    assert list(identities.release("admin", A)) == ["dev"]
    assert identities.duplicates == {}


@pytest.mark.parametrize("order", [["dev", "other"], ["dev", "admin", "other"]])
def test_a_duplicate_ends_when_the_other_one_leaves_the_configuration_or_comes_after_it(
    identities: DuplicateDetector, order: list[str]
) -> None:
    identities.claim("admin", A)
    identities.claim("dev", A)
    assert list(identities.follow(order)) == ["dev"]
    identities.claim("dev", A)
    assert "dev" not in identities.duplicates


def test_a_cluster_that_has_left_the_configuration_claims_nothing(identities: DuplicateDetector) -> None:
    identities.follow(["dev"])
    assert identities.claim("admin", A) is None
    assert identities.claim("dev", A) is None


def test_a_duplicate_that_leaves_the_configuration_is_forgotten(identities: DuplicateDetector) -> None:
    identities.claim("admin", A)
    identities.claim("dev", A)
    assert list(identities.follow(["admin", "other"])) == []
    assert identities.duplicates == {}
