"""ResourceSlices watched from end to end: what they add to a cluster, and that nothing depends on them."""

import logging
from typing import Any

import anyio
import msgspec
import pytest

from collector.backoff import Backoff
from collector.collect.gpu_signs import SLICE_SIGN
from collector.collect.slice_watch import SliceIntervals
from collector.model import ClusterState, SliceState, Uncovered, WatchRestart
from collector.simulator.slices import SliceVersion
from tests.collect.world import FAST, World
from tests.support.waiting import eventually

pytestmark = pytest.mark.anyio


def asking_often() -> SliceIntervals:
    return msgspec.structs.replace(FAST.slices, absent=Backoff(initial=0.05, maximum=0.1))


def test_a_server_without_the_api_is_asked_again_within_minutes() -> None:
    assert SliceIntervals().absent.delay(20) <= 400


def without_pods(world: World) -> None:
    for node in world.cluster.nodes:
        world.cluster.remove_pod(node)


class TestWhatSlicesAdd:
    @pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
    @pytest.mark.parametrize("split", [False, True])
    async def test_nodes_without_a_pod_are_gpu_nodes_with_a_capacity(
        self, world: World, version: SliceVersion, split: bool
    ) -> None:
        world.cluster.publish_slices(version=version, split=split)
        without_pods(world)
        async with world.watched() as seen:
            await eventually(lambda: seen.nodes.keys() == set(world.cluster.nodes))
            info = seen.nodes[world.first]
            assert (info.gpu_sign, info.capacity, info.allocatable, info.advertised[0]) == (SLICE_SIGN, 2, 2, None)
            assert {ref.uuid for ref in info.listed or ()} == {
                uuid for node, uuid in world.truth if node == world.first
            }
            assert set(seen.uncovered.values()) == {Uncovered.NO_POD}
            await eventually(lambda: seen.slices and seen.slices[-1].state is SliceState.WATCHED)
            assert seen.state is ClusterState.UP

    async def test_nodes_are_read_once_despite_slices(self, world: World) -> None:
        world.cluster.publish_slices()
        async with world.watched() as seen:
            await world.settled()
            assert set(world.execs.values()) == {1}
            assert {seen.nodes[node].capacity for node in world.cluster.nodes} == {2}

    async def test_addresses_are_those_of_nvidia_smi(self, world: World) -> None:
        world.cluster.publish_slices()
        async with world.watched() as seen:
            await world.settled()
            read = {gpu.uuid: gpu.pci_bus_id for gpu in seen.published[world.first].gpus}
            assert dict(seen.nodes[world.first].listed or ()) == read

    async def test_a_device_plugin_beside_it_does_not_double_the_capacity(self, world: World) -> None:
        world.cluster.publish_slices(plugin=True)
        async with world.watched() as seen:
            await world.settled()
            info = seen.nodes[world.first]
            assert (info.capacity, info.allocatable, info.gpu_sign) == (2, 2, "nvidia.com/gpu")

    async def test_instances_count_as_boards(self, world: World) -> None:
        world.cluster.set_mig(world.first)
        world.cluster.publish_slices()
        async with world.watched() as seen:
            await world.settled()
            assert seen.nodes[world.first].capacity == 2

    async def test_nodes_without_slices_are_unaffected(self, world: World) -> None:
        world.cluster.publish_slices()
        async with world.watched() as seen:
            await world.settled()
            assert not any(node.startswith("cpu") for node in seen.nodes)

    async def test_a_node_selector_excludes_their_nodes(self, world: World) -> None:
        world.cluster.publish_slices()
        async with world.watched(node_selector=f"kubernetes.io/hostname={world.first}") as seen:
            await eventually(lambda: seen.published)
            await world.stays(lambda: seen.nodes.keys() == {world.first})


class TestLoss:
    @pytest.mark.parametrize("how", [{}, {"listed": True}, {"silent": True}])
    async def test_losing_a_gpu_causes_its_node_to_be_read(self, world: World, how: dict[str, Any]) -> None:
        world.cluster.publish_slices()
        async with world.watched() as seen:
            await world.settled()
            before = len(seen.readings) + len(seen.failures)
            world.cluster.lose_gpu(world.first, **how)
            await eventually(lambda: len(seen.nodes[world.first].listed or ()) == 1)
            await eventually(lambda: len(seen.readings) + len(seen.failures) > before)
            # Its node does not seem complete for having lost it.
            assert (seen.nodes[world.first].capacity, seen.nodes[world.first].allocatable) == (2, 1)
            world.cluster.reboot_node(world.first)
            world.cluster.withdraw_gpus(world.first, forget=True)
            await eventually(lambda: seen.nodes[world.first].allocatable == 2)
            await world.settled()

    async def test_without_a_pod_only_the_listing_changes(self, world: World) -> None:
        world.cluster.publish_slices(split=True)
        without_pods(world)
        async with world.watched() as seen:
            await eventually(lambda: seen.nodes.keys() == set(world.cluster.nodes))
            world.cluster.lose_gpu(world.first)
            await eventually(lambda: len(seen.nodes[world.first].listed or ()) == 1)
            assert (seen.nodes[world.first].capacity, world.execs.total()) == (2, 0)

    async def test_a_generation_with_the_same_gpus_causes_no_reading(self, world: World) -> None:
        world.cluster.publish_slices()
        async with world.watched():
            await world.settled()
            execs = world.execs.total()
            world.cluster.publish_slices()
            await world.stays(lambda: world.execs.total() == execs)

    async def test_the_capacity_survives_a_restart(self, world: World) -> None:
        world.cluster.publish_slices()
        async with world.watched() as seen:
            await world.settled()
            world.cluster.lose_gpu(world.first)
            await world.settled()
            known = {node: one._replace(boards=seen.nodes[node].capacity) for node, one in seen.known().items()}
        execs = world.execs.total()
        async with world.watched(known=known) as seen:
            await eventually(lambda: seen.nodes.keys() == set(world.cluster.nodes))
            assert (seen.nodes[world.first].capacity, len(seen.nodes[world.first].listed or ())) == (2, 1)
            await world.stays(lambda: world.execs.total() == execs)

    async def test_a_removed_driver_does_not_remove_gpus(self, world: World) -> None:
        world.cluster.publish_slices()
        async with world.watched() as seen:
            await world.settled()
            world.cluster.delete_slices(world.first)
            await eventually(lambda: seen.nodes[world.first].listed is None)
            await world.settled()
            assert seen.gone == []


class TestWithoutSlices:
    async def test_a_server_without_the_api_costs_one_request(self, world: World) -> None:
        async with world.watched() as seen:
            await world.settled()
            assert [status.state for status in seen.slices] == [SliceState.ABSENT]
            assert (world.requested("get"), world.requested("list"), world.requested("watch")) == (1, 2, 2)

    async def test_an_api_that_comes_later_is_found(self, world: World) -> None:
        async with world.watched(intervals=msgspec.structs.replace(FAST, slices=asking_often())) as seen:
            await world.settled()
            world.cluster.publish_slices()
            await eventually(lambda: seen.slices[-1].state is SliceState.WATCHED)
            await eventually(lambda: all(node.listed for node in seen.nodes.values()))
            await world.settled()

    @pytest.mark.parametrize("verb", ["list", "watch"])
    async def test_a_missing_right_is_reported_and_affects_only_slices(
        self, world: World, verb: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.cluster.publish_slices(plugin=True)
        world.cluster.deny(verb, "resourceslices")
        async with world.watched() as seen:
            await world.settled()
            await eventually(lambda: seen.slices and seen.slices[-1].state is SliceState.FORBIDDEN)
            assert "resourceslices" in seen.slices[-1].message
            assert (seen.states, seen.restarts) == ([ClusterState.STARTING, ClusterState.UP], [])
            world.cluster.allow(verb, "resourceslices")
            await eventually(lambda: seen.slices[-1].state is SliceState.WATCHED)
            await eventually(lambda: all(node.listed for node in seen.nodes.values()))
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    async def test_slices_already_seen_are_kept_without_the_right(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.cluster.publish_slices()
        without_pods(world)
        async with world.watched() as seen:
            await eventually(lambda: len(seen.nodes) == len(world.cluster.nodes))
            world.cluster.deny("*", "resourceslices")
            world.cluster.drop_connections()
            await eventually(lambda: [found.state for found in seen.slices][-1:] == [SliceState.FORBIDDEN])
            await eventually(lambda: seen.state is ClusterState.UP)
            assert {node.capacity for node in seen.nodes.values()} == {2}
            world.cluster.delete_node(world.second)
            world.cluster.lose_gpu(world.first)
            world.cluster.allow()
            await eventually(lambda: len(seen.nodes[world.first].listed or ()) == 1)
            await eventually(lambda: world.second in seen.gone)
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert any(text.startswith("ResourceSlices not visible, keeping their last known state: ") for text in warnings)

    async def test_a_server_that_stops_serving_slices_is_reported(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.cluster.publish_slices()
        without_pods(world)
        async with world.watched() as seen:
            await eventually(lambda: seen.slices and seen.slices[-1].state is SliceState.WATCHED)
            await eventually(lambda: len(seen.nodes) == len(world.cluster.nodes))
            world.cluster.slices.resource = None
            world.cluster.drop_connections()
            await eventually(lambda: "no longer serves" in seen.slices[-1].message)
            assert {status.state for status in seen.slices} == {SliceState.WATCHED, SliceState.FAILING}
            assert {node.capacity for node in seen.nodes.values()} == {2}
            world.cluster.publish_slices()
            await eventually(lambda: seen.slices[-1].state is SliceState.WATCHED)
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert any(text.startswith("ResourceSlices not visible, keeping their last known state: ") for text in warnings)

    async def test_a_server_that_changes_the_api_version_is_followed(self, world: World) -> None:
        world.cluster.publish_slices(version="v1beta1")
        async with world.watched() as seen:
            await world.settled()
            world.cluster.publish_slices(version="v1")
            world.cluster.drop_connections()
            world.cluster.lose_gpu(world.first)
            await eventually(lambda: len(seen.nodes[world.first].listed or ()) == 1)
            assert seen.slices[-1].state is SliceState.WATCHED

    async def test_too_many_slices_affect_only_slices(self, world: World) -> None:
        world.cluster.publish_slices(split=True, plugin=True)
        for at in range(20):
            world.cluster.add_node(f"more-{at}")
        async with world.watched(max_objects=30) as seen:
            await world.settled()
            await eventually(lambda: seen.slices and seen.slices[-1].state is SliceState.FAILING)
            assert "max_objects" in seen.slices[-1].message
            assert ("resourceslices", WatchRestart.LIMIT_EXCEEDED) in seen.restarts
            assert seen.state is ClusterState.UP

    async def test_a_bug_affects_only_slices(
        self, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_slices: object) -> None:
            raise ValueError("a bug")

        world.cluster.publish_slices(plugin=True)
        with monkeypatch.context() as patch:
            patch.setattr("collector.collect.watcher.SliceBook.apply", fail)
            async with world.watched() as seen:
                await world.settled()
                await eventually(lambda: seen.slices and seen.slices[-1].state is SliceState.FAILING)
                assert "unexpected error" in seen.slices[-1].message
                assert seen.states == [ClusterState.STARTING, ClusterState.UP]
                await world.stays(lambda: seen.slices[-1].state is SliceState.FAILING)
                patch.undo()
                await eventually(lambda: seen.slices[-1].state is SliceState.WATCHED)
                await eventually(lambda: all(node.listed for node in seen.nodes.values()))
        assert [record.message for record in caplog.records if record.exc_info and record.levelno > logging.DEBUG] == [
            "unexpected error in the watch of ResourceSlices; restarting it"
        ]

    async def test_missing_slices_delay_the_first_reading_only_briefly(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def hang(_client: object) -> None:
            await anyio.sleep_forever()

        monkeypatch.setattr("collector.collect.slice_watch.find_slice_api", hang)
        async with world.watched(intervals=msgspec.structs.replace(FAST, slices_wait=0.3)) as seen:
            await eventually(lambda: seen.state is ClusterState.UP)
            await world.settled()
            assert seen.slices == []

    @pytest.mark.parametrize(
        ("body", "state"),
        [
            (b"<html>", SliceState.FAILING),
            (b'{"versions": [null, {}, {"version": "v2"}]}', SliceState.ABSENT),
            (b'{"versions": null}', SliceState.ABSENT),
            (b"null", SliceState.ABSENT),
            (b'{"versions": 1}', SliceState.FAILING),
        ],
    )
    async def test_an_invalid_discovery_affects_only_slices(
        self,
        world: World,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        body: bytes,
        state: SliceState,
    ) -> None:
        monkeypatch.setattr(world.cluster.slices, "discovery", lambda _path: body)
        async with world.watched() as seen:
            await world.settled()
            await eventually(lambda: [status.state for status in seen.slices] == [state])
            await world.stays(lambda: seen.state is ClusterState.UP)
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == (state is SliceState.FAILING)
        assert all(text.startswith("ResourceSlices not visible") for text in warnings)
