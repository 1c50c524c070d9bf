"""Clusters of two shards that show the same nodes."""

import logging
from collections.abc import Collection
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from collector.app.look_alikes import LookAlikes
from collector.model import NodeInfo, NodeState, Place, Step


def node(cluster: str, name: str, uid: str) -> Step:
    place = Place(cluster, name)
    return Step(nodes={place: NodeState(place=place, node=NodeInfo(name=name, uid=uid))})


def gone(cluster: str, name: str) -> Step:
    return Step(nodes={Place(cluster, name): None})


def made(*steps: Step, own: Collection[str] = ("own", "mine")) -> LookAlikes:
    found = LookAlikes(lambda cluster: cluster in own)
    for step in steps:
        found.on_step(step)
    return found


def test_two_clusters_of_different_shards_that_show_a_node_resemble_each_other(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        found = made(node("own", "n1", "u1"), node("far", "n1", "u1"), node("far", "n2", "u2"), node("own", "n2", "u2"))
    assert (found.of("own"), found.of("far"), found.of("other")) == ({"far"}, {"own"}, set())
    (record,) = caplog.records
    assert record.getMessage().startswith(
        'cluster resembles one of another shard: node n1 of "far" has the same UID in "own"; if they are the same'
    )


def test_the_resemblance_ends_with_the_last_common_node() -> None:
    steps = [node("own", "n1", "u1"), node("far", "n1", "u1"), node("own", "n2", "u2"), node("far", "n2", "u2")]
    assert made(*steps, gone("far", "n1")).of("own") == {"far"}
    assert made(*steps, gone("far", "n1"), gone("own", "n2")).of("own") == set()
    assert made(*steps, gone("far", "n1"), node("far", "n2", "u3")).of("far") == set()


def test_clusters_of_the_same_shard_are_left_to_the_proof() -> None:
    steps = [node("own", "n1", "u1"), node("mine", "n1", "u1"), node("far", "n1", "u1"), node("away", "n1", "u1")]
    found = made(*steps)
    assert found.of("own") == {"far", "away"}
    assert found.of("far") == {"own", "mine", "away"}


def test_nodes_without_a_uid_resemble_nothing() -> None:
    assert made(node("own", "n1", ""), node("far", "n1", "")).of("own") == set()


places = st.tuples(st.sampled_from(["own", "far", "away"]), st.sampled_from(["n1", "n2", "n3"]))


@given(st.lists(st.tuples(places, st.sampled_from(["", "u1", "u2", None])), max_size=40))
def test_look_alikes_are_computed_from_current_nodes(acts: list[tuple[tuple[str, str], str | None]]) -> None:
    found, now = made(), dict[tuple[str, str], str]()
    for (cluster, name), uid in acts:
        found.on_step(gone(cluster, name) if uid is None else node(cluster, name, uid))
        now[cluster, name] = uid or ""
        if uid and list(now.values()).count(uid) != len({c for (c, _), one in now.items() if one == uid}):
            return  # one cluster never has two nodes of one uid
    uids = {cluster: {uid for (one, _), uid in now.items() if one == cluster and uid} for cluster, _ in now}
    for cluster, own in uids.items():
        assert found.of(cluster) == {other for other, theirs in uids.items() if other != cluster and own & theirs}


def test_a_pair_is_reported_once(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        steps = [node("own", "n1", "u1"), *[node("far", "n1", "u1"), gone("far", "n1")] * 3]
        assert made(*steps).of("own") == set()
    assert len(caplog.records) == 1
