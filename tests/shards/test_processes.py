"""Several `gpuid run --shard` over one PostgreSQL: a whole fleet on each, and every change once, whatever ends them."""

import signal

import pytest

from tests.shards.site import CLUSTERS, ShardProcess, Site
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(900)  # each starts several processes, one after the other

OTHER_SHARD = {"sim-0": "sim-1", "sim-1": "sim-4", "sim-4": "sim-0"}  # of three: clusters of shards 0, 1 and 2


def test_three_shards_answer_for_all_clusters_and_survive_kill(site: Site) -> None:
    shards = site.start_all(3)
    assert [one.hashed for one in shards] == [{"sim-0", "sim-3"}, {"sim-1", "sim-2"}, {"sim-4", "sim-5"}]
    for one in shards:
        assert one.targets() == {*one.hashed, None}
        assert {placed.cluster for placed in one.gpus()} == one.hashed
        assert (one.total("gpuid_shard_ordinal"), one.total("gpuid_total_shards")) == (one.shard, 3)
        assert one.problems() == []
    assert set(site.execs().values()) == {1}
    every_shard_sees_moves_between_shards(site, shards)
    a_killed_shard_comes_back_without_reading_what_is_fresh(site, shards)
    both_shards_see_a_conflict(site, shards)
    assert site.most_at_once() == 1


def every_shard_sees_moves_between_shards(site: Site, shards: list[ShardProcess]) -> None:
    for source, target in OTHER_SHARD.items():
        site.move(source, "gpu-0000", target, "gpu-0001")
    site.all_is_told_once()
    site.settled(shards)
    moved = [move.uuids[0] for move in site.moves]
    for one in shards:
        changes = one.api("/api/v1/changes?event=moved")["changes"]
        assert sorted(change["uuid"] for change in changes) == sorted(moved)
        for move in site.moves:
            (row,) = one.api(f"/api/v1/gpus?q={move.uuids[0]}")["gpus"]
            assert (row["cluster"], row["node"]) == move.target


def a_killed_shard_comes_back_without_reading_what_is_fresh(site: Site, shards: list[ShardProcess]) -> None:
    before = site.quiet_execs()
    killed = shards[1]
    killed.stop(signal.SIGKILL)
    # One that leaves its clusters, one that comes there, and one that has nothing to do with them.
    moves = [
        site.move("sim-1", "gpu-0002", "sim-0", "gpu-0000"),
        site.move("sim-4", "gpu-0002", "sim-2", "gpu-0000"),
        site.move("sim-3", "gpu-0002", "sim-5", "gpu-0002"),
    ]
    for one in (shards[0], shards[2]):
        until(one.unowned, killed.hashed)
        assert "sim-1 and sim-2 are read by no shard" in one.problems()
        unowned = {labels["cluster"] for labels, _ in one.samples("gpuid_cluster_unowned")}
        assert (unowned, one.series_of()) == (killed.hashed, one.hashed)
        assert one.ready()
        assert "[-]shard 1 is not running; the last one was " in one.text("/readyz?verbose")
    killed.start()
    site.settled(shards)
    site.all_is_told_once()
    for one in shards:
        until(one.problems, [])
    touched = {place for move in moves for place in (move.source, move.target)}
    assert {place for place, count in site.quiet_execs().items() if count != before[place]} == touched


def both_shards_see_a_conflict(site: Site, shards: list[ShardProcess]) -> None:
    (uuid,) = site.double("sim-3", "gpu-0000", "sim-2", "gpu-0001")
    site.restart_pod("sim-2", "gpu-0001")
    until(lambda: [one.total("gpuid_gpu_conflicts") for one in shards], [1.0, 1.0, 0.0])
    for one in shards:
        until(lambda: "1 GPU confirmed in two places at once: 2 nodes across 2 clusters" in one.problems())  # noqa: B023
    assert {event: count for (event, one), count in site.told().items() if one == uuid} == {"appeared": 2}


def test_a_frozen_shard_is_replaced_and_writes_nothing_on_resuming(site: Site) -> None:
    shards = site.start_all(2)
    replica = site.start(1, 2, name="replica")
    until(replica.ready)
    until(lambda: "standing by" in replica.tail())
    site.all_is_told_once()
    frozen = shards[1]
    frozen.send(signal.SIGSTOP)
    site.expire("shard-1", "delivery")
    site.move("sim-1", "gpu-0000", "sim-0", "gpu-0000")
    site.move("sim-0", "gpu-0001", "sim-2", "gpu-0001")
    site.move("sim-3", "gpu-0002", "sim-4", "gpu-0002")
    site.all_is_told_once()  # by the replica
    frozen.send(signal.SIGCONT)
    until(lambda: "standing by" in frozen.tail())
    until(frozen.series_of, set())
    site.move("sim-2", "gpu-0002", "sim-3", "gpu-0001")
    site.all_is_told_once()
    site.settled([shards[0], replica])
    # Without a replica, it continues as the owner when it thaws.
    shards[0].send(signal.SIGSTOP)
    site.expire("shard-0")
    site.move("sim-1", "gpu-0001", "sim-0", "gpu-0002")
    until(replica.unowned, shards[0].hashed)
    shards[0].send(signal.SIGCONT)
    site.all_is_told_once()
    site.settled([shards[0], replica])


def test_the_number_of_shards_changes_under_load_without_readings(site: Site) -> None:
    running = [site.start()]
    site.settled(running)
    for total in (2, 3):
        running = site.roll(running, total)
        site.settled(running)
    assert (set(site.execs().values()), site.most_at_once()) == ({1}, 1)
    with site.load():
        for total in (2, 1):
            running = site.roll(running, total)
    site.settled(running)
    site.all_is_told_once()
    assert len(site.moves) >= len(CLUSTERS)
