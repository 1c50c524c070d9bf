"""What a cluster's queue knows after readings, failures and ResourceSlices, by a clock that the tests set."""

import time
from typing import Any

import msgspec
import pytest

from collector.collect.slices import NodeDevices
from collector.collect.tracked_node import Target
from collector.config import Duration, PodSource, SourceMethod
from collector.model import Fingerprint, GpuRef, Known, NodeInfo, ReadFailure, Uncovered
from tests.collect.test_node_queue import GRACE, NODE, POD, READY, World

REFRESH = 3600.0
NAMED = msgspec.structs.replace(NODE, facts=NodeInfo(name="n", uid="1", gpu_sign="label"))


def world(**settings: Any) -> World:
    made = World(**settings)
    made.set_pod(POD, READY)
    made.queue.resume()
    return made


def handed_out(world: World) -> Target:
    node = world.queue.pop_due()
    assert node is not None
    target = world.queue.select(node)
    assert target is not None
    return target


class TestReadings:
    def test_a_cluster_has_room_up_to_its_limit(self) -> None:
        made = world(max_gpus=10)
        target = handed_out(made)
        assert (made.queue.has_room(target, 10), made.queue.has_room(target, 11)) == (True, False)
        made.succeeded(target, found=6)
        assert (made.queue.has_room(target, 10), made.queue.has_room(target, 11)) == (True, False)  # not six more
        made.succeeded(target)
        other = Target(type(target.node)("other"), target.candidate, target.fingerprint)
        assert (made.queue.has_room(other, 10), made.queue.has_room(other, 11)) == (True, False)

    def test_gpus_of_a_node_that_is_gone_do_not_count(self) -> None:
        made = world(max_gpus=10)
        target = handed_out(made)
        made.succeeded(target, found=6)
        made.queue.done(target.node)
        made.queue.set_node(NODE, None)
        assert made.seen.gone == ["n"]
        for _ in range(2):
            made.queue.set_node(None, NODE)
            made.queue.set_node(NODE, None)
        other = Target(type(target.node)("other"), target.candidate, target.fingerprint)
        assert (made.queue.has_room(other, 10), made.queue.has_room(other, 11)) == (True, False)

    def test_a_node_without_pods_is_forgotten_when_it_is_gone(self) -> None:
        made = world()
        made.set_pod(READY, None)
        made.queue.set_node(NODE, None)
        assert not made.queue._nodes
        assert made.gone_at(10 * GRACE) == ["n"]  # when its grace would have been over

    def test_a_reading_returns_the_current_info(self) -> None:
        made = world()
        assert made.succeeded(handed_out(made)) == NODE.facts

    def test_the_fingerprint_of_a_reading_made_now_is_known(self) -> None:
        made = world()
        assert made.queue.fingerprint("n") == handed_out(made).fingerprint
        assert made.queue.fingerprint("other") is None
        made.set_pod(READY, POD)
        assert made.queue.fingerprint("n") is None

    def test_a_failure_returns_when_the_node_is_read_again(self) -> None:
        made = world(refresh=Duration(REFRESH))
        made.now = 1000.0
        target = handed_out(made)
        assert 0.8 <= made.queue.failed(target, ReadFailure.CONNECTION) <= 1.2
        made = world(refresh=Duration(REFRESH))
        assert 240.0 <= made.queue.failed(handed_out(made), ReadFailure.TIMEOUT) <= 360.0

    def test_a_node_whose_reading_is_like_a_failure_is_read_again_soon(self) -> None:
        made = world(refresh=Duration(REFRESH))
        target = handed_out(made)
        made.queue.succeeded(target, found=7, mig=False, like_a_failure=True)
        made.queue.done(target.node)
        assert made.queue.pop_due() is None
        made.now += 1.3
        assert made.queue.pop_due() is target.node

    def test_a_reading_that_nobody_waits_for_is_an_answer(self) -> None:
        made = world()
        assert made.queue.answered(handed_out(made), 0.0) is True

    def test_a_node_is_verified_now_unless_a_delay_is_given(self) -> None:
        made = world()
        target = handed_out(made)
        made.succeeded(target)
        made.queue.done(target.node)
        made.now = 100.0
        assert made.queue.verify("n") is True
        assert made.queue.pop_due() is target.node

    def test_a_node_that_is_gone_or_has_no_ready_pod_is_not_verified(self) -> None:
        made = world()
        made.set_pod(READY, POD)
        assert (made.queue.verify("n"), made.queue.verify("other")) == (False, False)


def test_a_node_read_by_an_earlier_run_waits_for_its_refresh() -> None:
    """It falls into the second half of the interval."""
    fingerprint = Fingerprint(pod_uid="u", container_id="1", restarts=0, boot_id="", capacity=None)
    made = world(known={"n": Known(fingerprint, time.time())}, refresh=Duration(REFRESH))
    assert made.queue.fingerprint("n") == fingerprint
    made.now = REFRESH / 2 - 10.0
    assert made.queue.pop_due() is None
    made.now = REFRESH
    assert made.queue.pop_due() is not None


def test_a_grace_that_ends_before_the_reading_expires_is_reported_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = world()
    made.set_pod(None, msgspec.structs.replace(POD, key="gpu-operator/other", uid="other", node="other"))
    made.queue.set_node(NODE, NAMED)
    target = handed_out(made)
    made.succeeded(target)
    made.queue.done(target.node)
    made.set_pod(READY, POD)
    made.now = 100.0
    made.set_pod(POD, None)
    assert made.gone_at(GRACE - 1.0) == []
    assert [one for one in caplog.records if one.levelname == "WARNING"] == []
    assert made.gone_at(GRACE) == []
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) == 1
    assert made.seen.uncovered == {"n": Uncovered.NO_POD}
    assert made.gone_at(GRACE + 100.0) == ["n"]


class TestLogs:
    """A node that is read from what a pod prints."""

    SOURCE = PodSource(namespace="gpu-operator", selector="", container="nvidia-device-plugin", method=SourceMethod.LOG)

    def logs(self, **settings: Any) -> World:
        return world(sources=(self.SOURCE,), refresh=Duration(REFRESH), **settings)

    def test_a_log_that_cannot_be_read_is_tried_again_soon(self) -> None:
        """Nothing was run on the node."""
        made = self.logs()
        assert 0.8 <= made.queue.failed(handed_out(made), ReadFailure.TIMEOUT) <= 1.2

    def test_a_node_with_pods_of_both_kinds_waits_for_a_document_that_was_printed_after_the_request(self) -> None:
        run = PodSource(namespace="gpu-operator", selector="", container="other")
        made = World(sources=(self.SOURCE, run), refresh=Duration(REFRESH))
        made.set_pod(POD, READY)
        made.queue.set_pod(1, run, None, msgspec.structs.replace(READY, key="gpu-operator/other", uid="other"))
        made.queue.resume()
        target = handed_out(made)
        assert target.candidate.source is self.SOURCE
        made.queue.unchanged(target)
        made.queue.done(target.node)
        made.now = 100.0
        assert made.queue.verify("n") is True
        assert made.queue.answered(handed_out(made), 50.0) is False

    def test_a_log_that_was_read_waits_for_its_next_document(self) -> None:
        made = self.logs()
        target = handed_out(made)
        made.queue.unchanged(target)
        made.queue.done(target.node)
        assert made.queue.pop_due() is None
        made.now = REFRESH
        assert made.queue.pop_due() is target.node

    def test_a_log_has_been_read_once_its_document_has(self) -> None:
        made = self.logs()
        target = handed_out(made)
        assert not target.node.log.was_read(target.fingerprint)
        made.succeeded(target)
        assert target.node.log.was_read(target.fingerprint)

    def test_a_document_from_before_a_request_does_not_answer_it(self) -> None:
        made = self.logs()
        target = handed_out(made)
        made.now = 100.0
        assert made.queue.verify("n") is True
        assert made.queue.answered(target, 100.0) is True
        assert made.queue.verify("n") is True
        target.node.verify_at = None
        assert made.queue.answered(target, 99.0) is False
        soon = target.node.verify_at
        assert soon is not None
        assert 104.0 <= soon <= 106.0
        assert made.queue.answered(target, 99.0) is False  # a later look does not postpone the first one
        assert target.node.verify_at == soon

    def test_the_times_of_a_log_are_those_of_its_container(self) -> None:
        made = self.logs()
        made.now = 1000.0
        target = handed_out(made)
        times = made.queue.log_times(target)
        assert made.queue.log_times(target) is times
        assert (made.queue.awaits_first_document(target), times.since) == (True, 1000.0)
        made.now = 1360.0
        assert made.queue.awaits_first_document(target) is False

    def test_a_change_of_the_listed_gpus_asks_for_a_newer_document(self) -> None:
        made = self.logs()
        target = handed_out(made)
        made.queue.done(target.node)
        made.now = 50.0
        made.queue.set_devices("n", TestDevices.DEVICES)
        assert made.queue.answered(target, 49.0) is False
        assert made.queue.answered(target, 50.0) is True

    def test_a_log_read_by_an_earlier_run_is_looked_at_within_a_period(self) -> None:
        fingerprint = Fingerprint(pod_uid="u", container_id="1", restarts=0, boot_id="", capacity=None)
        seen = set()
        for seed in range(20):
            made = self.logs(known={"n": Known(fingerprint, time.time())}, seed=seed)
            assert made.queue.fingerprint("n") == fingerprint
            made.now = 0.0
            assert made.queue.pop_due() is None
            made.now = 300.0
            target = handed_out(made)
            assert target.node.log.was_read(fingerprint)
            seen.add(target.node.attempt)
        assert len(seen) == 20  # not all at the same time


def test_a_node_that_went_between_two_runs_is_gone() -> None:
    fingerprint = Fingerprint(pod_uid="u", container_id="1", restarts=0, boot_id="", capacity=None)
    made = world(known={name: Known(fingerprint, time.time()) for name in ("n", "other")})
    assert made.seen.gone == ["other"]
    assert made.queue.node("n") == NODE
    assert made.queue.node("other") is None


def test_the_view_is_paused_until_it_is_complete() -> None:
    made = World()
    assert made.queue.paused
    made.queue.resume()
    assert not made.queue.paused


class TestDevices:
    DEVICES = NodeDevices(listed=(GpuRef("GPU-1"),), gpus=1, usable=1, passed=0)
    PASSED = NodeDevices(listed=(), gpus=0, usable=0, passed=1)
    NONE = NodeDevices(listed=(), gpus=0, usable=0, passed=0)

    def bare(self) -> World:
        """Return the queue of a cluster with a node that has neither a pod nor a sign of GPUs."""
        made = World()
        made.set_pod(POD, None)
        made.queue.resume()
        made.seen.gone.clear()
        return made

    @pytest.mark.parametrize(("devices", "known"), [(DEVICES, True), (PASSED, True), (NONE, False)])
    def test_a_node_whose_slices_list_gpus_is_observed(self, devices: NodeDevices, known: bool) -> None:
        made = self.bare()
        made.queue.set_devices("n", devices)
        assert ("n" in made.seen.nodes) is known
        made.queue.set_devices("other", devices)  # which does not exist yet
        assert "other" not in made.seen.nodes
        made.queue.set_node(None, msgspec.structs.replace(NODE, facts=NodeInfo(name="other", uid="2")))
        assert ("other" in made.seen.nodes) is known

    def test_gpus_that_are_no_longer_listed_make_no_node_known(self) -> None:
        made = self.bare()
        for devices in (self.DEVICES, None):
            made.queue.set_devices("other", devices)
        made.queue.set_node(None, msgspec.structs.replace(NODE, facts=NodeInfo(name="other", uid="2")))
        assert "other" not in made.seen.nodes

    def test_an_unread_node_whose_slices_list_gpus_stays_without_a_pod(self) -> None:
        made = self.bare()
        made.queue.set_devices("n", self.DEVICES)
        assert made.gone_at(10 * GRACE) == []
        made.queue.set_devices("n", None)
        assert made.gone_at(20 * GRACE) == ["n"]

    def test_a_reading_depends_on_the_listed_gpus(self) -> None:
        made = world()
        for devices, listed in ((self.DEVICES, (GpuRef("GPU-1"),)), (self.NONE, ()), (None, None)):
            made.queue.set_devices("n", devices)
            fingerprint = made.queue.fingerprint("n")
            assert fingerprint is not None
            assert fingerprint.listed == listed

    def test_the_capacity_is_the_most_gpus_that_were_listed(self) -> None:
        made = world()
        for count, capacity in ((2, 2), (1, 2), (3, 3)):
            refs = tuple(GpuRef(f"GPU-{index}") for index in range(count))
            made.queue.set_devices("n", NodeDevices(listed=refs, gpus=count, usable=count, passed=0))
            assert made.seen.nodes["n"].capacity == capacity

    def test_it_is_known_from_an_earlier_run(self) -> None:
        fingerprint = Fingerprint(pod_uid="u", container_id="1", restarts=0, boot_id="", capacity=None)
        made = world(known={"n": Known(fingerprint, time.time(), boards=4)})
        made.queue.set_devices("n", self.DEVICES)
        assert made.seen.nodes["n"].capacity == 4
