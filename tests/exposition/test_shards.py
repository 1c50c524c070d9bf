"""Whatever nodes come, change and go, the text is that of those that are there."""

from hypothesis import given
from hypothesis import strategies as st

from collector.exposition.shards import ClusterTextStore, inflated

NODES = [f"n{index}" for index in range(20)]
step = st.tuples(st.sampled_from(NODES), st.none() | st.integers(0, 2))  # a node and its lines' number; None: gone


@given(st.lists(st.lists(step, max_size=12), max_size=12))
def test_the_text_is_always_that_of_the_nodes_there_are(rounds: list[list[tuple[str, int | None]]]) -> None:
    cluster, expected = ClusterTextStore(shard_nodes=4, group_shards=2), dict[str, bytes]()
    for steps in rounds:
        for node, number in steps:
            if number is None:
                cluster.remove(node)
                expected.pop(node, None)
            else:
                expected[node] = f"{node} {'x' * number}\n".encode()
                cluster.put(node, (expected[node], b"", b"same\n", b""))
        families = cluster.refreshed()
        lines = [b"".join(b"".join(inflated(text)) for text in family).splitlines(True) for family in families]
        assert sorted(lines[0]) == sorted(expected.values()) if expected else not families
        assert not families or lines[1:] == [[], [b"same\n"] * len(expected), []]
