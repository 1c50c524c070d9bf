"""Which configured clusters are one and the same: by proof, and by the uids of their nodes."""

import pytest

from collector.collect.duplicates import Duplicate, DuplicateDetector, Resemblance, Verdict
from collector.kube.identity import Proof, ProofKind
from collector.model import NodeInfo, Place

A, B, C, D = (NodeInfo(name=name, uid=uid) for name, uid in (("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")))
ADDRESS, KEY, OTHER_KEY = Proof(ProofKind.ADDRESS, "1"), Proof(ProofKind.KEY, "2"), Proof(ProofKind.KEY, "3")
PROVEN = frozenset({ADDRESS, KEY})


class Detector(DuplicateDetector):
    """Takes all that a cluster shows at once."""

    def show(self, cluster: str, *nodes: NodeInfo, proofs: frozenset[Proof] = PROVEN) -> Verdict:
        self.new_session(cluster)
        verdicts = [self.prove(cluster, proofs), *(self.claim(cluster, node) for node in nodes), self.complete(cluster)]
        return Verdict(
            [one for verdict in verdicts for one in verdict.duplicates],
            [one for verdict in verdicts for one in verdict.resemblances],
            [one for verdict in verdicts for one in verdict.freed],
        )


@pytest.fixture
def detector() -> Detector:
    made = Detector()
    made.set_order(["admin", "dev", "other"])
    return made


def duplicate(cluster: str, of: str, node: NodeInfo = A) -> Verdict:
    return Verdict(duplicates=[Duplicate(cluster, Place(of, node.name), node.uid)])


def resemblance(cluster: str, to: str, node: NodeInfo = A) -> Verdict:
    return Verdict(resemblances=[Resemblance(cluster, Place(to, node.name), node.uid)])


NOTHING = Verdict()


class TestProof:
    def test_the_later_of_two_identical_clusters_is_the_duplicate(self, detector: Detector) -> None:
        assert detector.show("admin", A) == NOTHING
        verdict = detector.show("dev", A)
        assert verdict == duplicate("dev", of="admin")
        assert detector.duplicates == {"dev": verdict.duplicates[0]}
        assert str(verdict.duplicates[0]) == (
            'it is the same cluster as "admin" (node a has the same UID in both); remove one from the configuration'
        )

    def test_the_later_cluster_is_the_duplicate_whichever_is_listed_first(self, detector: Detector) -> None:
        detector.show("dev", A, B)
        assert detector.show("admin", A, B).duplicates[0].cluster == "dev"
        assert detector.show("other", C, proofs=frozenset()) == NOTHING

    @pytest.mark.parametrize("proof", [ADDRESS, KEY])
    def test_one_proof_in_common_is_enough(self, detector: Detector, proof: Proof) -> None:
        detector.show("admin", A, proofs=frozenset({proof, OTHER_KEY}))
        assert detector.show("dev", A, proofs=frozenset({proof})) == duplicate("dev", of="admin")

    def test_both_are_listed_completely_before_they_are_compared(self, detector: Detector) -> None:
        detector.show("admin", A)
        detector.new_session("dev")
        assert detector.prove("dev", PROVEN) == NOTHING
        assert detector.claim("dev", A) == NOTHING
        assert detector.complete("dev") == duplicate("dev", of="admin")

    def test_a_cluster_that_is_empty_at_first_is_compared_later(self, detector: Detector) -> None:
        assert (detector.show("admin"), detector.show("dev")) == (NOTHING, NOTHING)
        assert detector.claim("admin", A) == NOTHING
        assert detector.claim("dev", A) == duplicate("dev", of="admin")

    def test_a_server_is_recognised_when_its_second_key_appears(self, detector: Detector) -> None:
        detector.show("admin", A, proofs=frozenset({KEY}))
        assert detector.show("dev", A, proofs=frozenset({OTHER_KEY})) == resemblance("dev", to="admin")
        assert detector.prove("dev", frozenset({KEY})) == duplicate("dev", of="admin")
        assert detector.resemblances("admin") == []

    def test_a_part_of_a_cluster_is_recognised_by_its_nodes(self, detector: Detector) -> None:
        detector.add("admin", "all")
        detector.add("dev", "pool=x")
        detector.show("admin", A, B, C)
        assert detector.show("dev", C) == duplicate("dev", of="admin", node=C)

    def test_parts_without_a_node_in_common_are_both_read(self, detector: Detector) -> None:
        detector.add("admin", "pool=y")
        detector.add("dev", "pool=x")
        detector.show("admin", A)
        assert detector.show("dev", B) == NOTHING

    def test_parts_sharing_at_most_half_their_nodes_are_both_read(self, detector: Detector) -> None:
        detector.add("admin", "pool=y")
        detector.add("dev", "pool=x")
        detector.show("admin", A, B, C)
        assert detector.show("dev", A, D) == resemblance("dev", to="admin")
        assert [one.cluster for one in detector.claim("dev", B).duplicates] == ["dev"]


class TestResemblance:
    def test_without_proof_both_are_read(self, detector: Detector) -> None:
        detector.show("admin", A, proofs=frozenset())
        verdict = detector.show("dev", A)
        assert verdict == resemblance("dev", to="admin")
        assert detector.duplicates == {}
        assert (detector.resemblances("admin"), detector.resemblances("dev")) == (["dev"], ["admin"])
        assert str(verdict.resemblances[0]) == (
            'it resembles "admin" (node a has the same UID in both), but nothing proves that they are the same cluster;'
            " both are published"
        )

    def test_two_without_any_proof_only_resemble_each_other(self, detector: Detector) -> None:
        detector.show("admin", A, proofs=frozenset())
        assert detector.show("dev", A, proofs=frozenset()) == resemblance("dev", to="admin")

    def test_with_another_key_and_address_there_is_no_proof(self, detector: Detector) -> None:
        detector.show("admin", A, proofs=frozenset({OTHER_KEY}))
        assert detector.show("dev", A) == resemblance("dev", to="admin")

    def test_a_cluster_with_its_own_nodes_is_different_despite_proof(self, detector: Detector) -> None:
        detector.show("admin", A, B)
        assert detector.show("dev", B, C) == resemblance("dev", to="admin", node=B)

    def test_a_pair_is_reported_once(self, detector: Detector) -> None:
        detector.show("admin", A, B, proofs=frozenset())
        assert detector.show("dev", A) == resemblance("dev", to="admin")
        assert detector.claim("dev", B) == NOTHING
        assert detector.show("dev", A) == NOTHING
        assert detector.resemblances("dev") == ["admin"]

    def test_a_resemblance_ends_with_the_last_common_node(self, detector: Detector) -> None:
        detector.show("admin", A, B, proofs=frozenset())
        detector.show("dev", A, B)
        detector.release("dev", A)
        assert detector.resemblances("dev") == ["admin"]
        detector.release("admin", B)
        assert detector.resemblances("dev") == detector.resemblances("admin") == []

    def test_a_resemblance_lasts_while_one_cluster_reconnects(self, detector: Detector) -> None:
        detector.show("admin", A, proofs=frozenset())
        detector.show("dev", A)
        detector.new_session("admin")
        assert detector.resemblances("dev") == ["admin"]
        detector.show("admin", B)
        assert detector.resemblances("dev") == []

    def test_a_resemblance_ends_when_a_cluster_is_removed(self, detector: Detector) -> None:
        detector.show("admin", A, proofs=frozenset())
        detector.show("dev", A)
        detector.set_order(["dev", "other"])
        assert detector.resemblances("dev") == []

    def test_a_proof_shared_by_many_clusters_is_worthless(self, detector: Detector) -> None:
        detector.show("dev", A, proofs=frozenset({KEY}))
        detector.show("other", B, proofs=frozenset({KEY}))
        assert detector.show("admin", A, proofs=frozenset({KEY})) == resemblance("dev", to="admin")

    def test_a_duplicate_ends_when_its_proof_turns_out_to_be_shared(self, detector: Detector) -> None:
        detector.show("admin", A, proofs=frozenset({KEY}))
        detector.show("dev", A, proofs=frozenset({KEY}))
        assert detector.show("other", B, proofs=frozenset({KEY})) == Verdict(freed=["dev"])
        assert detector.show("dev", A, proofs=frozenset({KEY})) == resemblance("dev", to="admin")

    def test_a_proof_is_shared_whatever_nodes_two_clusters_select(self, detector: Detector) -> None:
        for cluster, scope in (("admin", "x"), ("dev", "y"), ("other", "z")):
            detector.add(cluster, scope)
        detector.show("admin", A)
        assert detector.show("dev", A) == duplicate("dev", of="admin")
        assert detector.show("other", B) == Verdict(freed=["dev"])
        assert detector.show("dev", A) == resemblance("dev", to="admin")

    def test_a_former_duplicate_still_shows_that_proof_is_shared(self, detector: Detector) -> None:
        detector.show("admin", A)
        assert detector.show("dev", A) == duplicate("dev", of="admin")
        detector.claim("admin", B)  # a copy of the third one's node: now the first has one in common with each
        assert detector.show("other", B) == Verdict(
            freed=["dev"], resemblances=[Resemblance("other", Place("admin", "b"), "2")]
        )

    def test_duplicates_of_one_cluster_never_count_as_shared_proof(self, detector: Detector) -> None:
        detector.show("admin", A, B)
        detector.show("dev", A, B)
        detector.claim("admin", C)
        kept, gone = (A, B) if detector.duplicates["dev"].uid == A.uid else (B, A)
        detector.release("admin", gone)
        assert [one.cluster for one in detector.show("other", kept, C).duplicates] == ["other"]
        assert detector.prove("admin", PROVEN) == NOTHING
        assert set(detector.duplicates) == {"dev", "other"}

    def test_the_first_node_of_an_empty_cluster_may_show_that_a_proof_is_shared(self, detector: Detector) -> None:
        detector.show("admin", A)
        detector.show("other")
        assert detector.show("dev", A) == duplicate("dev", of="admin")
        assert detector.claim("other", B) == Verdict(freed=["dev"])

    def test_the_first_node_of_an_empty_cluster_may_be_shared(self, detector: Detector) -> None:
        detector.show("admin", A)
        detector.show("other")
        assert detector.show("dev", A) == duplicate("dev", of="admin")
        assert detector.claim("other", A) == duplicate("other", of="admin")

    @pytest.mark.parametrize("scopes", [("s", "s"), ("s", "t")])
    @pytest.mark.parametrize("copied", [1, 2])
    def test_a_copied_node_does_not_silence_a_larger_cluster(
        self, detector: Detector, scopes: tuple[str, str], copied: int
    ) -> None:
        detector.add("admin", scopes[0])
        detector.add("dev", scopes[1])
        own = [NodeInfo(name=f"own-{number}", uid=f"own-{number}") for number in range(copied)]
        theirs = [NodeInfo(name=f"n{number}", uid=f"n{number}") for number in range(100)]
        detector.show("admin", *theirs[:copied], *own)
        verdict = detector.show("dev", *theirs)
        assert ([one.cluster for one in verdict.resemblances], verdict.duplicates) == (["dev"], [])

    def test_a_duplicate_ends_when_the_first_proves_something_else(self, detector: Detector) -> None:
        detector.show("admin", A, proofs=frozenset({KEY}))
        detector.show("dev", A, proofs=frozenset({KEY}))
        assert detector.prove("admin", frozenset({OTHER_KEY})) == Verdict(freed=["dev"])

    def test_proof_from_an_earlier_session_does_not_count(self, detector: Detector) -> None:
        detector.show("admin", A, proofs=frozenset({OTHER_KEY}))
        detector.new_session("admin")
        detector.prove("admin", PROVEN)
        assert detector.show("dev", A) == NOTHING
        assert detector.duplicates == {}


class TestNodes:
    def test_clusters_without_a_common_node_are_different(self, detector: Detector) -> None:
        assert detector.show("admin", A) == NOTHING
        assert detector.show("dev", B) == NOTHING

    def test_nodes_of_one_name_with_different_uids_are_different(self, detector: Detector) -> None:
        assert detector.show("admin", A) == NOTHING
        assert detector.show("dev", NodeInfo(name="a", uid="3")) == NOTHING

    def test_nodes_without_a_uid_prove_nothing(self, detector: Detector) -> None:
        assert detector.show("admin", NodeInfo(name="a")) == NOTHING
        assert detector.show("dev", NodeInfo(name="a")) == NOTHING

    def test_a_cluster_can_claim_its_own_nodes_again(self, detector: Detector) -> None:
        assert detector.show("admin", A) == NOTHING
        assert detector.claim("admin", A) == NOTHING

    def test_a_duplicate_ends_with_the_node_that_revealed_it(self, detector: Detector) -> None:
        detector.show("admin", A, B)
        (found,) = detector.show("dev", A, B).duplicates
        node, remaining = (A, B) if found.uid == A.uid else (B, A)
        assert list(detector.release("admin", remaining)) == []
        assert list(detector.release("dev", node)) == []  # a duplicate has no node
        assert list(detector.release("admin", node)) == ["dev"]
        assert detector.duplicates == {}


class TestConfiguration:
    @pytest.mark.parametrize("order", [["dev", "other"], ["dev", "admin", "other"]])
    def test_a_duplicate_ends_when_the_other_is_removed_or_reordered(
        self, detector: Detector, order: list[str]
    ) -> None:
        detector.show("admin", A)
        detector.show("dev", A)
        assert list(detector.set_order(order)) == ["dev"]
        detector.show("dev", A)
        assert "dev" not in detector.duplicates

    def test_a_removed_cluster_claims_nothing(self, detector: Detector) -> None:
        detector.set_order(["dev"])
        assert detector.show("admin", A) == NOTHING
        assert detector.show("dev", A) == NOTHING

    def test_a_removed_duplicate_is_forgotten(self, detector: Detector) -> None:
        detector.show("admin", A)
        detector.show("dev", A)
        assert list(detector.set_order(["admin", "other"])) == []
        assert detector.duplicates == {}

    def test_a_cluster_with_other_settings_is_compared_again(self, detector: Detector) -> None:
        detector.show("admin", A)
        detector.show("dev", A)
        detector.add("dev")
        assert detector.duplicates == {}
        assert detector.show("dev", A) == duplicate("dev", of="admin")
