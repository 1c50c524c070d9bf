"""Reloads that a run draws: what each of them writes, and what is true of a cluster that is not known yet."""

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collector.config import Config, load
from collector.simulator.fleet import Fleet, SimulationError
from tests.faults import configuration_faults, settings  # noqa: F401  registers what is drawn
from tests.faults.compare_history import Replay, compare_past, stamp
from tests.faults.plan import KINDS, Arguments
from tests.faults.settings import FURTHER_SINK
from tests.faults.truth import Truth
from tests.faults.world import CLUSTERS, FURTHER_CLUSTERS

LINKS = {
    "hook": "http://127.0.0.1:1/",
    FURTHER_SINK: "http://127.0.0.1:2/",
    "lake": "http://127.0.0.1:3",
    "warehouse": "postgresql://gpuid@127.0.0.1:4/warehouse",
}


class ConfiguredWorld(SimpleNamespace):
    """The configuration of a run, read by gpuid's own code each time that it is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            clusters=dict.fromkeys(CLUSTERS + FURTHER_CLUSTERS),
            collected=set(CLUSTERS),
            changed={name: {} for name in CLUSTERS + FURTHER_CLUSTERS},
            contexts={name: name for name in CLUSTERS},
            sinks=settings.first_sinks(LINKS),
            without_sinks=set(),
            dropped=set(),
            renamed={},
            truth=Truth(),
        )
        self._file = folder / "gpuid.toml"

    def configure(self) -> None:
        sinks = [(name, table) for name, table in self.sinks.items() if name not in self.without_sinks]
        text = settings.defaults(self._file, rereads=True) + settings.written(sinks, LINKS)
        for context, name in self.contexts.items():
            text += settings.written_cluster({"context": context, "name": name, **self.changed[context]})
        self._file.write_text(f'{text}[store]\nurl = "sqlite:///{self._file}.db"\n')

    def loaded(self) -> Config:
        return load(self._file, warn=False)

    def do(self, kind: str, **given: Any) -> None:
        KINDS[kind].do(self, given)  # type: ignore[arg-type]

    def undo(self, kind: str, **given: Any) -> None:
        undo = KINDS[kind].undo
        assert undo is not None
        undo(self, given)  # type: ignore[arg-type]

    def drawn(self, kind: str, times: int = 200) -> Iterator[Arguments | None]:
        chance = random.Random(1)
        return (KINDS[kind].draw(self, chance) for _ in range(times))  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> ConfiguredWorld:
    return ConfiguredWorld(tmp_path)


class TestClusters:
    def test_one_that_was_never_configured_is_added_for_good(self, world: ConfiguredWorld) -> None:
        for number, cluster in enumerate(FURTHER_CLUSTERS):
            left = FURTHER_CLUSTERS[number:]
            assert {given["cluster"] for given in world.drawn("add_cluster") if given} == set(left)
            world.do("add_cluster", cluster=cluster)
        assert [one.name for one in world.loaded().clusters] == [*CLUSTERS, *FURTHER_CLUSTERS]
        assert set(world.drawn("add_cluster")) == {None}
        assert KINDS["add_cluster"].undo is None
        assert world.dropped == set()  # its counters begin, and are never set back

    def test_only_a_configured_one_is_removed_or_renamed(self, world: ConfiguredWorld) -> None:
        for kind in ("remove_cluster", "rename_cluster"):
            assert {given["cluster"] for given in world.drawn(kind) if given} == set(CLUSTERS)
            with pytest.raises(SimulationError):  # in a plan that was shortened
                world.do(kind, cluster="sim-4", name="other")
        assert world.contexts == {name: name for name in CLUSTERS}

    def test_one_that_was_added_is_added_once(self, world: ConfiguredWorld) -> None:
        world.do("add_cluster", cluster="sim-4")
        world.do("remove_cluster", cluster="sim-4")
        with pytest.raises(SimulationError):
            world.do("add_cluster", cluster="sim-4")
        assert "sim-4" not in {one.name for one in world.loaded().clusters}
        world.undo("remove_cluster", cluster="sim-4")
        assert "sim-4" in {one.name for one in world.loaded().clusters}

    def test_gpuid_accepts_every_change(self, world: ConfiguredWorld) -> None:
        world.do("reorder_clusters")
        before = {one.name: one for one in world.loaded().clusters}
        for key, values in settings.CLUSTER_CHANGES.items():
            found = []
            for value in values:
                world.do("change_cluster", cluster="sim-1", key=key, value=value)
                after = {one.name: one for one in world.loaded().clusters}
                found.append(getattr(after["sim-1"], key))
            assert len(set(found)) == len(values) > 1
        assert {name for name in after if after[name] != before[name]} == {"sim-1"}
        for given in world.drawn("change_cluster"):
            assert given is not None
            world.do("change_cluster", **given)
        assert world.loaded().clusters

    def test_one_keeps_its_changes_under_another_name(self, world: ConfiguredWorld) -> None:
        world.do("change_cluster", cluster="sim-1", key="exec_concurrency", value=4)
        world.do("rename_cluster", cluster="sim-1", name="other")
        assert {one.name: one.exec_concurrency for one in world.loaded().clusters}["other"] == 4


class TestSinks:
    @pytest.mark.parametrize("sink", ["log", *LINKS])
    def test_gpuid_accepts_every_change(self, world: ConfiguredWorld, sink: str) -> None:
        world.do("add_sink")
        before = world.loaded().sinks
        choices = settings.SINK_CHANGES[world.sinks[sink]["type"]]
        for key, values in choices.items():
            found = []
            for value in values:
                world.do("change_sink", sink=sink, key=key, value=value)
                found.append(getattr(world.loaded().sinks[sink], key))
            assert len(set(found)) == len(values) > 1
        after = world.loaded().sinks
        assert {name for name in after if after[name] != before[name]} == {sink}
        same = set(after[sink].__struct_fields__) - choices.keys()
        assert all(getattr(after[sink], name) == getattr(before[sink], name) for name in same)

    def test_what_is_drawn_can_be_done(self, world: ConfiguredWorld) -> None:
        for given in world.drawn("change_sink"):
            assert given is not None
            world.do("change_sink", **given)
        assert world.loaded().sinks.keys() == {"log", "hook", "lake", "warehouse"}

    def test_one_comes_back_as_it_was_changed_meanwhile(self, world: ConfiguredWorld) -> None:
        world.do("remove_sink", sink="hook")
        assert world.loaded().sinks.keys() == {"log", "lake", "warehouse"}
        assert {given["sink"] for given in world.drawn("remove_sink") if given} == {"log", "lake", "warehouse"}
        world.do("change_sink", sink="hook", key="batch_records", value=5)
        assert "hook" not in world.loaded().sinks
        world.undo("remove_sink", sink="hook")
        assert world.loaded().sinks["hook"].batch_records == 5

    def test_a_further_one_is_added_once_and_gets_the_whole_history(self, world: ConfiguredWorld) -> None:
        for kind in ("change_sink", "remove_sink"):
            with pytest.raises(SimulationError):
                world.do(kind, sink=FURTHER_SINK, key="batch_records", value=5)
        world.do("add_sink")
        assert world.loaded().sinks[FURTHER_SINK].backfill
        assert set(world.drawn("add_sink")) == {None}
        with pytest.raises(SimulationError):
            world.do("add_sink")


class TestTheTruthAboutAClusterThatIsNotKnownYet:
    @pytest.fixture
    def fleet(self) -> Fleet:
        return Fleet(clusters=2, nodes=1, gpus=2)

    def test_its_gpus_are_nowhere_until_it_is_added(self, fleet: Fleet) -> None:
        truth, everything = Truth(), {one.uuid for one in fleet.expected()}
        truth.note(fleet, {"sim-0"})
        assert truth.places().keys() == {one.uuid for one in fleet.expected("sim-0")}
        truth.begin()
        truth.note(fleet, {"sim-0", "sim-1"})
        assert truth.places().keys() == everything
        assert [len(life) for life in truth.lives.values()] == [1] * 4

    def test_how_many_gpus_its_nodes_had_before_is_known(self, fleet: Fleet) -> None:
        truth = Truth()
        truth.note(fleet, {"sim-0"})
        fleet.move("sim-0", "gpu-0000", "sim-1", "gpu-0000")
        truth.note(fleet, {"sim-0"})
        assert truth.numbers["sim-1", "gpu-0000"] == {2, 3}

    def test_a_gpu_that_was_moved_there_before_vanishes_and_then_moves(self, fleet: Fleet) -> None:
        truth = Truth()
        truth.note(fleet, {"sim-0"})
        (uuid,) = fleet.move("sim-0", "gpu-0000", "sim-1", "gpu-0000")
        truth.begin()
        truth.note(fleet, {"sim-0"})
        assert uuid not in truth.places()
        truth.begin()
        truth.note(fleet, {"sim-0", "sim-1"})
        assert truth.places()[uuid] == {("sim-1", "gpu-0000")}
        starts = [stay.start for stay in truth.lives[uuid]]
        places = [("sim-0", None), ("sim-0", None), ("sim-1", "sim-0")]
        changes = [
            {
                "id": number,
                "uuid": uuid,
                "event": event,
                "cluster": cluster,
                "node": "gpu-0000",
                "previous_cluster": previous,
                "previous_node": previous and "gpu-0000",
                "time": stamp(start + 0.01),
            }
            for number, (event, (cluster, previous), start) in enumerate(
                zip(("appeared", "vanished", "moved"), places, starts, strict=True), 1
            )
        ]
        assert Replay().take(changes) == []
        assert compare_past(changes, truth.lives, {}) == []
        early = [*changes[:2], changes[2] | {"time": stamp(starts[2] - 60)}]
        assert any("but not before" in one for one in compare_past(early, truth.lives, {}))
