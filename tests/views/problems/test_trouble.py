"""Problems are merged into rows without losing any, and rows are ranked."""

import itertools
import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from collector.health import Level
from collector.model import ClusterState, ReadFailure
from collector.views.problems.current import problem_of, ranked
from collector.views.problems.kinds import CAUSES, DOWN, KINDS, OF_ALL, ProblemKind, Severity
from collector.views.problems.problem import MAX_LISTED, ProblemGpu, ProblemNode
from collector.views.problems.trouble import Trouble, TroubleRow, Troubles

VARIANTS = {
    ProblemKind.NODE_FAILING: [reason.value for reason in ReadFailure],
    ProblemKind.NODE_UNREAD: ["no_pod", "pod_not_ready"],
    ProblemKind.GPU_DEGRADED: [level.value for level in Level],
    ProblemKind.SINK_FAILING: ["hook", "a b"],
}
OF_NODES = [kind for kind, one in KINDS.items() if one.nodes is not None and kind not in CAUSES]


@st.composite
def troubles(draw: st.DrawFn, cluster: str, number: int) -> Trouble:
    """One trouble of a cluster; those of nodes are each of another node, by its number."""
    kind = draw(st.sampled_from(list(ProblemKind)))
    node: ProblemNode | None = None
    gpus: tuple[ProblemGpu, ...] = ()
    count = draw(st.integers(1, 9))
    if kind in OF_NODES:
        node = ProblemNode(cluster=cluster, node=f"n{draw(st.integers(0, 99))}-{number}")
        gpus = tuple(ProblemGpu(cluster=cluster, node=node.node, uuid=f"GPU-{n}") for n in range(count))
    return Trouble(
        kind,
        draw(st.sampled_from(VARIANTS.get(kind, [""]))),
        count=count,
        size=draw(st.integers(0, 20)),
        cluster=cluster,
        node=node,
        gpus=gpus,
        since=draw(st.none() | st.floats(0, 1e9)),
        reason=draw(st.sampled_from(["", "one", "two"])),
        consequences=draw(st.integers(0, 2)),
    )


FLEETS = st.lists(st.sampled_from(["c1", "c2", "c10"]), max_size=30).flatmap(
    lambda names: st.tuples(*map(troubles, names, range(len(names))))
)


def folded(found: tuple[Trouble, ...]) -> Troubles:
    """Return troubles as the fleet has them: swallowed within each cluster, then merged."""
    fleet = Troubles()
    for cluster in ("c1", "c2", "c10"):
        own = Troubles(one for one in found if one.cluster == cluster)
        own.swallow()
        fleet.merge(own)
    return fleet


@given(found=FLEETS)
def test_every_trouble_is_counted_exactly_once(found: tuple[Trouble, ...]) -> None:
    rows = list(folded(found))
    assert sum(row.count + row.consequences for row in rows) == sum(one.count + one.consequences for one in found)
    assert len({(row.kind, row.variant) for row in rows}) == len(rows)


@given(found=FLEETS)
def test_a_row_summarises_its_troubles(found: tuple[Trouble, ...]) -> None:
    """Without causes, which swallow."""
    found = tuple(one for one in found if one.kind not in CAUSES)
    expected = Counter[tuple[str, str]]()
    for one in found:
        expected[one.kind, one.variant] += one.count
    rows = {(row.kind.value, row.variant): row for row in folded(found)}
    assert {key: row.count for key, row in rows.items()} == expected
    for key, row in rows.items():
        own = [one for one in found if (one.kind, one.variant) == key]
        problem = problem_of(row)
        assert set(problem.clusters) == {one.cluster for one in own}
        assert problem.since == min((one.since for one in own if one.since is not None), default=None)
        assert problem.nodes_total == len({one.node for one in own if one.node})
        assert problem.gpus_total == sum(len(one.gpus) for one in own)
        assert len(problem.gpus) == min(MAX_LISTED, problem.gpus_total)
        assert problem.gpus_affected == sum(one.size for one in own)


@given(found=FLEETS)
def test_consequences_are_hidden_by_their_cause(found: tuple[Trouble, ...]) -> None:
    own = Troubles(one for one in found if one.cluster == "c1")
    own.swallow()
    kinds = {row.kind for row in own}
    for cause, explained in CAUSES.items():
        assert cause not in kinds or kinds.isdisjoint(explained)


@given(found=FLEETS, seed=st.randoms())
def test_problems_are_ranked_by_severity_cure_size_and_age(found: tuple[Trouble, ...], seed: random.Random) -> None:
    problems = [problem_of(row) for row in folded(found)]
    order = [one.id for one in ranked(problems)]
    seed.shuffle(problems)
    again = ranked(problems)
    assert [one.id for one in again] == order
    severities = [list(Severity).index(one.severity) for one in again]
    assert severities == sorted(severities)
    for before, after in itertools.pairwise(again):
        if before.severity is after.severity:
            assert before.id != "gpu_degraded:reset", "what a reset cures is the last of the warnings"
            assert before.kind in OF_ALL or after.kind not in OF_ALL
            last = after.id == "gpu_degraded:reset" or (before.kind in OF_ALL) is not (after.kind in OF_ALL)
            assert last or max(before.gpus_affected, 1) >= max(after.gpus_affected, 1)


@given(found=FLEETS)
def test_every_problem_has_a_sentence_path_and_remedy(found: tuple[Trouble, ...]) -> None:
    for problem in map(problem_of, folded(found)):
        assert problem.title
        assert problem.title == problem.title.strip()
        assert not problem.title.endswith(".")
        assert problem.remedy.endswith(".")
        assert "{" not in problem.remedy
        assert problem.url.startswith("/")


def test_items_with_keys_count_once() -> None:
    row = TroubleRow(ProblemKind.CONFLICT, "")
    for cluster in ("a", "b"):
        other = TroubleRow(ProblemKind.CONFLICT, "")
        other.add(Trouble(ProblemKind.CONFLICT, keys=("GPU-1",), size=1, cluster=cluster))
        row.merge(other)
    assert (row.count, row.size, row.clusters) == (1, 1, {"a", "b"})


def test_every_kind_has_a_severity_and_every_state_of_a_cluster_a_kind() -> None:
    assert KINDS.keys() == set(ProblemKind)
    assert DOWN.keys() == set(ClusterState) - {ClusterState.UP}


def test_names_are_in_natural_order() -> None:
    found = [Trouble(ProblemKind.CLUSTER_UNREACHABLE, cluster=name) for name in ("sim-10", "sim-2", "sim-1")]
    (row,) = Troubles(found)
    assert problem_of(row).title == "sim-1, sim-2 and sim-10 are unreachable"


def test_many_reasons_are_listed_with_their_counts() -> None:
    found = [
        Trouble(ProblemKind.CLUSTER_UNREACHABLE, cluster=f"c{number}", reason="refused" if number % 3 else "timed out")
        for number in range(9)
    ]
    (row,) = Troubles(found)
    assert problem_of(row).reason == "refused (6 clusters); timed out (3 clusters)"


def test_one_reason_in_many_places_is_listed_once() -> None:
    found = [
        Trouble(ProblemKind.CLUSTER_UNREACHABLE, cluster=f"c{number}", reason=f"https://10.0.0.{number}:6443: {why}")
        for number, why in enumerate(["connection refused"] * 3 + ["timed out"])
    ]
    (row,) = Troubles(found)
    # A reason that only one cluster has keeps its address.
    assert problem_of(row).reason == "connection refused (3 clusters); https://10.0.0.3:6443: timed out (1 cluster)"


def test_unreadable_clusters_are_counted_by_reason() -> None:
    fleet = Troubles()
    for cluster, reason, why in (
        ("a", ReadFailure.NO_BINARY, "not in $PATH"),
        ("b", ReadFailure.FORBIDDEN, 'https://b:1: forbidden: pods "p-{}" is forbidden: no exec'),
        ("c", ReadFailure.FORBIDDEN, 'https://c:1: forbidden: pods "p-{}" is forbidden: no exec'),
    ):
        own = Troubles([Trouble(ProblemKind.CLUSTER_UNREAD, reason.value, cluster=cluster)])
        for number in range(4):
            node = ProblemNode(cluster=cluster, node=f"n{number}")
            own.add(
                Trouble(
                    ProblemKind.NODE_FAILING,
                    reason.value,
                    cluster=cluster,
                    node=node,
                    reason=why.format(number),
                )
            )
        own.swallow()
        fleet.merge(own)
    told = [(problem.title, problem.reason, problem.remedy) for problem in map(problem_of, fleet)]
    assert told[0][:2] == ("a has no GPU node that can be read: nvidia-smi not found in the container", "not in $PATH")
    assert told[1][:2] == (
        "b and c have no GPU node that can be read: permission missing",
        "forbidden: pods is forbidden: no exec",
    )
    assert "gpuid grant" in told[1][2]
