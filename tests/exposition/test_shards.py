"""The text matches the current nodes whichever nodes are added, changed and deleted."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.exposition.families import NODE_FAMILIES
from collector.exposition.shards import ClusterTextStore, DeflatedText, inflated

FAMILIES = len(NODE_FAMILIES)
NO_LINES = (b"",) * (FAMILIES - 3)  # of the families after the third
NODES = [f"n{index}" for index in range(20)]
SHARD = 4  # nodes of a shard in these tests
step = st.tuples(st.sampled_from(NODES), st.none() | st.integers(0, 2))  # a node and its lines' number; None: gone


@example([[("n0", 0)], [("n0", None)]])  # the last node goes
@example([[(node, 0) for node in NODES[:5]], [("n4", None)], [("n5", 0)]])  # a node comes after its shard emptied
@example([[(node, 0) for node in NODES[:8]], [("n8", 0), *dict.fromkeys(NODES[:4]).items()]])  # one comes, one empties
@given(st.lists(st.lists(step, max_size=12), max_size=12))
def test_the_text_always_matches_the_current_nodes(rounds: list[list[tuple[str, int | None]]]) -> None:
    cluster, expected = ClusterTextStore(shard_nodes=SHARD, group_shards=2), dict[str, bytes]()
    for steps in rounds:
        for node, number in steps:
            if number is None:
                cluster.remove(node)
                expected.pop(node, None)
            else:
                expected[node] = f"{node} {'x' * number}\n".encode()
                cluster.put(node, (expected[node], b"", b"same\n", *NO_LINES))
        families = cluster.refreshed()
        lines = [b"".join(b"".join(inflated(text)) for text in family).splitlines(True) for family in families]
        assert sorted(lines[0]) == sorted(expected.values()) if expected else not families
        assert not families or lines[1:] == [[], [b"same\n"] * len(expected), *([] for _ in NO_LINES)]


@pytest.fixture
def concats(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the texts of each concatenation."""
    counted: list[int] = []
    concat = DeflatedText.concat

    def count(texts: Sequence[DeflatedText]) -> DeflatedText:
        counted.append(len(texts))
        return concat(texts)

    monkeypatch.setattr(DeflatedText, "concat", count)
    return counted


def put(cluster: ClusterTextStore, number: int, text: str = "") -> None:
    """Give a node lines in each of two families; `text` is in the first."""
    cluster.put(f"n{number}", (f"n{number} {text}\n".encode(), b"", b"same\n", *NO_LINES))


def nodes(cluster: ClusterTextStore) -> set[str]:
    """Name the nodes whose lines are in the refreshed text."""
    families = cluster.refreshed()
    text = b"".join(b"".join(inflated(text)) for text in families[0]) if families else b""
    return {line.split()[0].decode() for line in text.splitlines()}


def test_an_emptied_shard_accepts_new_nodes() -> None:
    cluster = ClusterTextStore(shard_nodes=SHARD)
    for number in range(SHARD + 1):
        put(cluster, number)
    cluster.remove(f"n{SHARD}")  # the only one of the shard that takes new nodes
    assert nodes(cluster) == {f"n{number}" for number in range(SHARD)}
    put(cluster, SHARD + 1)
    assert nodes(cluster) == {*(f"n{number}" for number in range(SHARD)), f"n{SHARD + 1}"}


def test_a_cluster_without_nodes_has_no_text() -> None:
    cluster = ClusterTextStore(shard_nodes=SHARD)
    put(cluster, 0)
    assert nodes(cluster) == {"n0"}
    cluster.remove("n0")
    assert cluster.refreshed() == ()


def test_only_the_changed_family_of_a_group_is_concatenated_again(concats: list[int]) -> None:
    cluster = ClusterTextStore(shard_nodes=SHARD)
    for number in range(3 * SHARD):
        put(cluster, number)
    cluster.refreshed()
    assert concats == [3] * FAMILIES  # shards
    put(cluster, 0, "changed")
    cluster.refreshed()
    assert concats[FAMILIES:] == [3]
    cluster.refreshed()
    assert concats[FAMILIES + 1 :] == []


def test_an_emptied_shard_is_dropped_only_once(concats: list[int]) -> None:
    cluster = ClusterTextStore(shard_nodes=SHARD)
    for number in range(3 * SHARD):
        put(cluster, number)
    cluster.refreshed()
    for number in range(SHARD):
        cluster.remove(f"n{number}")
    concats.clear()
    cluster.refreshed()
    assert concats == [2] * FAMILIES  # two shards are left
    cluster.refreshed()
    put(cluster, SHARD, "changed")
    cluster.refreshed()
    assert concats[FAMILIES:] == [2]


class TestRoom:
    """New nodes fill a shard that is less than half full, or else a new one, so that a cluster's shards stay few."""

    @pytest.fixture
    def cluster(self) -> ClusterTextStore:
        """Three full shards."""
        cluster = ClusterTextStore(shard_nodes=SHARD)
        for number in range(3 * SHARD):
            put(cluster, number)
        cluster.refreshed()
        return cluster

    def shards(self, cluster: ClusterTextStore, concats: list[int]) -> int:
        """Return how many shards the refreshed text has, which must hold every node."""
        concats.clear()
        assert nodes(cluster) == set(cluster._by_node)
        return concats[0]

    def test_a_shard_that_is_half_full_takes_no_nodes(self, cluster: ClusterTextStore, concats: list[int]) -> None:
        for number in range(SHARD // 2):
            cluster.remove(f"n{number}")
        put(cluster, 12)
        assert self.shards(cluster, concats) == 4

    def test_a_shard_takes_nodes_until_it_is_full(self, cluster: ClusterTextStore, concats: list[int]) -> None:
        for number in range(SHARD - 1):
            cluster.remove(f"n{number}")
        for number in range(12, 12 + SHARD - 1):
            put(cluster, number)
        assert self.shards(cluster, concats) == 3
        put(cluster, 20)
        assert self.shards(cluster, concats) == 4

    def test_a_full_shard_that_a_node_once_left_takes_none(self, cluster: ClusterTextStore, concats: list[int]) -> None:
        put(cluster, 12)
        put(cluster, 13)
        cluster.remove("n12")
        for number in range(14, 13 + SHARD):
            put(cluster, number)
        assert self.shards(cluster, concats) == 4
        put(cluster, 20)
        assert self.shards(cluster, concats) == 5

    def test_every_shard_that_nodes_leave_is_filled(self, cluster: ClusterTextStore, concats: list[int]) -> None:
        for number in (0, 1, 2, 4, 5, 8, 9, 10):  # the second one stays half full
            cluster.remove(f"n{number}")
        for number in range(20, 20 + 2 * (SHARD - 1)):
            put(cluster, number)
        assert self.shards(cluster, concats) == 3

    def test_a_shard_that_was_dropped_takes_no_nodes(self, cluster: ClusterTextStore, concats: list[int]) -> None:
        for number in range(SHARD):
            cluster.remove(f"n{number}")
        assert self.shards(cluster, concats) == 2
        put(cluster, 12)
        assert self.shards(cluster, concats) == 3


def test_a_node_without_lines_in_a_family_does_not_shift_the_others() -> None:
    cluster = ClusterTextStore(shard_nodes=SHARD)
    put(cluster, 0)
    cluster.refreshed()
    cluster.put("n1", (b"", b"", b"same\n", *NO_LINES))
    put(cluster, 2)
    cluster.refreshed()
    cluster.remove("n2")
    assert nodes(cluster) == {"n0"}


def test_only_lines_that_differ_are_a_change() -> None:
    cluster, lines = ClusterTextStore(shard_nodes=SHARD), (b"a\n", b"", b"same\n", *NO_LINES)
    assert [cluster.put("n0", one) for one in (lines, lines, (b"b\n", *lines[1:]), (b"", *lines[1:]))] == [
        True,
        False,
        True,
        True,
    ]
