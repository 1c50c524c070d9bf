"""GPU nodes that no ready pod covers: which are reported, why, since when, and how they are logged."""

import logging
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from collector.collect.node_queue import NodeQueue
from collector.collect.objects import Container, NodeObject, PodObject
from collector.collect.schedule import RetryPolicy
from collector.collect.sharing import GpuLabels
from collector.config import PRESETS, ClusterSettings, Duration
from collector.model import Fingerprint, Known, NodeInfo, ReadFailure, Sharing, Survey, Uncovered
from tests.collect.world import Observed

GRACE = 600.0
DAY = 86400.0
PLUGIN = (Container(name="nvidia-device-plugin", id="1", ready=True),)


def gpu_node(name: str = "n", *, sign: str = "nvidia.com/gpu", age: float = DAY, **facts: Any) -> NodeObject:
    return NodeObject(
        version="1", facts=NodeInfo(name=name, uid=f"uid-{name}", gpu_sign=sign, **facts), created=time.time() - age
    )


def cpu_node(name: str = "cpu") -> NodeObject:
    return gpu_node(name, sign="")


def pod(node: str = "n", name: str = "p", containers: tuple[Container, ...] = PLUGIN) -> PodObject:
    return PodObject(
        key=f"gpu-operator/{name}", uid=f"u-{name}", version="1", node=node, running=True, containers=containers
    )


NOT_READY = pod(containers=(Container(name="nvidia-device-plugin"),))
OTHER = pod(name="gfd", containers=(Container(name="gpu-feature-discovery", ready=True),))


class Cluster:
    """The queue of a cluster, a clock, and what its observer was given."""

    def __init__(
        self,
        *nodes: NodeObject,
        known: dict[str, Known] | None = None,
        resume: bool = True,
        seen: Observed | None = None,
    ) -> None:
        self.now = 1000.0
        self.seen = Observed() if seen is None else seen
        settings = ClusterSettings(
            context="c", grace=Duration(GRACE), sources=(*PRESETS["gpu-operator"], *PRESETS["gke"])
        )
        self._sources = settings.active_sources
        self.queue = NodeQueue(
            settings, self.seen, known=known or {}, retry=RetryPolicy(), rng=random.Random(0), clock=lambda: self.now
        )
        for node in nodes:
            self.queue.set_node(None, node)
        if resume:
            self.queue.resume()

    @property
    def uncovered(self) -> dict[str, str]:
        """Return the reasons reported so far, after everything that is due by now."""
        while (node := self.queue.pop_due()) is not None:
            self.queue.done(node)
            raise AssertionError(f"{node.name} is due to be read")
        return {name: reason.value for name, reason in self.seen.uncovered.items()}

    def set_pod(self, before: PodObject | None, after: PodObject | None, order: int = 0) -> None:
        self.queue.set_pod(order, self._sources[order], before, after)

    def read(self, found: int = 8, *, mig: bool = False) -> None:
        """Read the node that is due."""
        node = self.queue.pop_due()
        assert node is not None
        target = self.queue.select(node)
        assert target is not None
        self.queue.succeeded(target, found=found, mig=mig, like_a_failure=False)
        self.queue.done(node)


class TestKnownNodes:
    def test_a_node_with_gpu_signs_is_reported_without_a_pod(self) -> None:
        cluster = Cluster(gpu_node(), cpu_node())
        assert list(cluster.seen.nodes) == ["n"]
        assert cluster.uncovered == {"n": "no_pod"}

    def test_a_node_without_sign_and_pod_stays_unknown(self) -> None:
        cluster = Cluster(cpu_node())
        cluster.now += 10 * GRACE
        assert (cluster.uncovered, cluster.seen.nodes, cluster.seen.gone) == ({}, {}, [])

    def test_a_node_without_a_sign_is_known_by_its_pod(self) -> None:
        cluster = Cluster(cpu_node("n"))
        cluster.set_pod(None, NOT_READY)
        assert list(cluster.seen.nodes) == ["n"]
        assert cluster.uncovered == {"n": "pod_not_ready"}

    def test_a_node_is_reported_again_when_it_gets_its_first_pod(self) -> None:
        cluster = Cluster(gpu_node())
        assert cluster.seen.with_pod == {"n": False}
        cluster.set_pod(None, OTHER)
        assert cluster.seen.with_pod == {"n": False}
        cluster.set_pod(None, NOT_READY)
        assert cluster.seen.with_pod == {"n": True}

    def test_a_pod_without_the_container_makes_no_node_known(self) -> None:
        cluster = Cluster(cpu_node("n"))
        cluster.set_pod(None, OTHER)
        assert (cluster.uncovered, cluster.seen.nodes) == ({}, {})

    def test_a_node_is_known_once_it_says_that_it_has_gpus(self) -> None:
        cluster = Cluster(cpu_node("n"))
        cluster.queue.set_node(cpu_node("n"), gpu_node())
        assert cluster.uncovered == {"n": "no_pod"}

    def test_nothing_is_reported_before_everything_was_listed(self) -> None:
        cluster = Cluster(gpu_node(), resume=False)
        assert (cluster.uncovered, cluster.seen.nodes, cluster.seen.surveys) == ({}, {}, [])
        cluster.queue.resume()
        assert cluster.uncovered == {"n": "no_pod"}
        assert cluster.seen.surveys == [Survey(1, (0, 0))]

    def test_a_node_that_is_deleted_is_gone(self) -> None:
        cluster = Cluster(gpu_node())
        cluster.queue.set_node(gpu_node(), None)
        assert (cluster.uncovered, cluster.seen.gone) == ({}, ["n"])


class TestReasons:
    def test_each_kind_of_missing_pod_has_its_reason(self) -> None:
        cluster = Cluster(gpu_node())
        cluster.set_pod(None, OTHER)
        assert cluster.uncovered == {"n": "no_container"}
        cluster.set_pod(None, NOT_READY)
        assert cluster.uncovered == {"n": "pod_not_ready"}
        cluster.set_pod(NOT_READY, pod())
        cluster.read()
        assert cluster.uncovered == {}
        cluster.set_pod(pod(), NOT_READY)
        assert cluster.uncovered == {"n": "pod_not_ready"}
        cluster.set_pod(NOT_READY, None)
        assert cluster.uncovered == {"n": "no_container"}
        cluster.set_pod(OTHER, None)
        assert cluster.uncovered == {"n": "no_pod"}

    def test_a_pod_of_any_source_covers_a_node(self) -> None:
        cluster = Cluster(gpu_node())
        gke = pod(containers=(Container(name="nvidia-gpu-device-plugin", ready=True),))
        cluster.set_pod(None, gke, order=1)
        cluster.read()
        assert cluster.uncovered == {}

    def test_the_first_grace_of_a_new_node_is_pending(self) -> None:
        cluster = Cluster(gpu_node(age=200))
        assert cluster.uncovered == {"n": "pending"}
        cluster.now += 399
        assert cluster.uncovered == {"n": "pending"}
        cluster.set_pod(None, NOT_READY)
        assert cluster.uncovered == {"n": "pending"}
        cluster.now += 2
        assert cluster.uncovered == {"n": "pod_not_ready"}

    @pytest.mark.parametrize("age", [-10 * DAY, 0])
    def test_a_node_from_the_future_is_pending_for_one_grace(self, age: float) -> None:
        cluster = Cluster(gpu_node(age=age))
        cluster.now += GRACE - 1
        assert cluster.uncovered == {"n": "pending"}
        cluster.now += 2
        assert cluster.uncovered == {"n": "no_pod"}

    def test_a_node_that_becomes_unreadable_is_reported_at_once(self) -> None:
        cluster = Cluster(gpu_node(age=0))
        cluster.set_pod(None, pod())
        cluster.read()
        cluster.set_pod(pod(), NOT_READY)
        assert cluster.uncovered == {"n": "pod_not_ready"}

    def test_the_end_of_a_grace_wakes_waiters(self) -> None:
        cluster = Cluster(gpu_node(age=200))
        assert cluster.queue.pop_due() is None
        assert cluster.queue._due.next_due() == pytest.approx(cluster.now + 400, abs=5)


class TestTheGraceOfWhatWasRead:
    def read_and_lost(self) -> Cluster:
        cluster = Cluster(gpu_node())
        cluster.set_pod(None, pod())
        cluster.read()
        cluster.now += 1
        cluster.set_pod(pod(), None)
        return cluster

    def test_a_read_node_keeps_its_gpus_for_the_grace(self) -> None:
        cluster = self.read_and_lost()
        cluster.now += GRACE - 1
        assert (cluster.uncovered, cluster.seen.gone) == ({"n": "no_pod"}, [])

    def test_afterwards_its_gpus_end_and_the_node_is_unread(self) -> None:
        cluster = self.read_and_lost()
        cluster.now += GRACE
        assert cluster.uncovered == {"n": "no_pod"}
        assert cluster.seen.gone == ["n"]
        assert list(cluster.seen.nodes) == ["n"]
        cluster.now += 10 * GRACE
        assert (cluster.uncovered, cluster.seen.gone) == ({"n": "no_pod"}, ["n"])

    def test_the_node_is_read_when_a_pod_comes_back_after_it(self) -> None:
        cluster = self.read_and_lost()
        cluster.now += GRACE
        assert cluster.uncovered == {"n": "no_pod"}
        cluster.set_pod(None, pod(name="new"))
        cluster.read()
        assert cluster.uncovered == {}

    def test_pods_without_the_container_do_not_extend_the_grace(self) -> None:
        cluster = self.read_and_lost()
        cluster.set_pod(None, OTHER)
        cluster.now += GRACE
        assert cluster.uncovered == {"n": "no_container"}
        assert cluster.seen.gone == ["n"]

    def test_a_node_that_also_loses_its_gpu_signs_is_gone(self) -> None:
        cluster = self.read_and_lost()
        cluster.queue.set_node(gpu_node(), cpu_node("n"))
        cluster.now += GRACE
        assert (cluster.uncovered, cluster.seen.gone) == ({}, ["n"])

    def test_a_node_is_gone_only_once_although_its_pods_remain(self) -> None:
        cluster = self.read_and_lost()
        cluster.set_pod(None, OTHER)
        cluster.queue.set_node(gpu_node(), cpu_node("n"))
        cluster.now += GRACE
        assert (cluster.uncovered, cluster.seen.gone) == ({}, ["n"])
        cluster.queue.set_node(cpu_node("n"), None)
        assert cluster.seen.gone == ["n"]

    def test_an_unread_node_is_gone_without_gpu_signs(self) -> None:
        cluster = Cluster(gpu_node())
        cluster.now += 5 * GRACE
        assert cluster.uncovered == {"n": "no_pod"}
        cluster.queue.set_node(gpu_node(), cpu_node("n"))
        assert (cluster.uncovered, cluster.seen.gone) == ({}, ["n"])

    def test_nothing_ends_while_the_view_is_not_current(self) -> None:
        cluster = self.read_and_lost()
        cluster.queue.pause()
        cluster.now += 5 * GRACE
        assert cluster.seen.gone == []


class TestAfterARestart:
    KNOWN = Known(
        Fingerprint(pod_uid="u-p", container_id="1", restarts=0, boot_id="", capacity=32, allocatable=32),
        time.time(),
        Sharing(units=32, labelled=1, most=8, shares=4, complete=True),
    )

    def test_a_node_says_at_once_whether_a_pod_covers_it(self) -> None:
        reported: list[tuple[str, Any]] = []

        class Seen(Observed):
            def on_uncovered(self, cluster: str, node: str, reason: Any) -> None:
                reported.append((node, reason))

        known = {"n": self.KNOWN, "m": self.KNOWN}
        cluster = Cluster(gpu_node(), gpu_node("m"), known=known, resume=False, seen=Seen())
        cluster.set_pod(None, pod())
        cluster.queue.resume()
        assert dict(reported) == {"n": None, "m": Uncovered.NO_POD}

    def test_knowledge_of_shares_is_kept(self) -> None:
        node = gpu_node(capacity=32, allocatable=28, advertised=(32, 28))
        cluster = Cluster(node, known={"n": self.KNOWN}, resume=False)
        cluster.set_pod(None, pod())
        cluster.queue.resume()
        assert (cluster.seen.nodes["n"].capacity, cluster.seen.nodes["n"].allocatable) == (8, 7)


class TestCapacity:
    SHARED = gpu_node(capacity=32, allocatable=32, advertised=(32, 32))

    def cluster(self) -> Cluster:
        cluster = Cluster(self.SHARED)
        cluster.set_pod(None, pod())
        assert cluster.seen.nodes["n"].capacity == 32
        cluster.read(found=8)
        return cluster

    def change(self, cluster: Cluster, capacity: int, allocatable: int, **more: Any) -> NodeInfo:
        changed = gpu_node(capacity=capacity, allocatable=allocatable, advertised=(capacity, allocatable), **more)
        cluster.queue.set_node(self.SHARED, changed)
        return cluster.seen.nodes["n"]

    def test_a_reading_determines_the_number_of_gpus(self) -> None:
        info = self.cluster().seen.nodes["n"]
        assert (info.capacity, info.allocatable, info.advertised) == (8, 8, (32, 32))

    def test_a_lost_gpu_is_not_mistaken_for_changed_sharing(self) -> None:
        cluster = self.cluster()
        info = self.change(cluster, 32, 28)
        assert (info.capacity, info.allocatable) == (8, 7)
        cluster.now += 10
        cluster.read(found=7)
        assert cluster.seen.nodes["n"].capacity == 8

    def test_a_reboot_redetermines_the_capacity(self) -> None:
        cluster = self.cluster()
        self.change(cluster, 32, 32, boot_id="2")
        cluster.read(found=4)
        assert cluster.seen.nodes["n"].capacity == 4

    def test_a_new_machine_with_the_same_name_redetermines_it(self) -> None:
        cluster = self.cluster()
        other = msgspec.structs.replace(
            self.SHARED, facts=msgspec.structs.replace(self.SHARED.facts, uid="another", boot_id="2")
        )
        cluster.queue.set_node(self.SHARED, other)
        assert cluster.seen.nodes["n"].capacity == 32
        cluster.read(found=4)
        assert cluster.seen.nodes["n"].capacity == 4

    def test_mig_labels_leave_the_count_unknown(self) -> None:
        cut = msgspec.structs.replace(
            self.SHARED,
            facts=msgspec.structs.replace(self.SHARED.facts, capacity=None, allocatable=None),
            labels=GpuLabels(instances=True),
        )
        cluster = self.cluster()
        cluster.queue.set_node(self.SHARED, cut)
        assert cluster.seen.nodes["n"].capacity is None


class TestTheSurvey:
    def test_nodes_and_pods_of_each_source_are_counted(self) -> None:
        cluster = Cluster(gpu_node(), cpu_node())
        cluster.set_pod(None, pod())
        cluster.set_pod(pod(), pod())
        cluster.set_pod(None, pod(node="", name="unscheduled", containers=()), order=1)
        cluster.set_pod(pod(), None)
        cluster.queue.set_node(cpu_node(), None)
        assert cluster.seen.surveys == [
            Survey(2, (0, 0)),
            Survey(2, (1, 0)),
            Survey(2, (1, 1)),
            Survey(2, (0, 1)),
            Survey(1, (0, 1)),
        ]

    def test_pods_without_the_container_are_not_counted(self) -> None:
        cluster = Cluster(gpu_node())
        pending = pod(name="gfd", containers=())  # which containers it has is known once it has been started
        cluster.set_pod(None, pending)
        cluster.set_pod(None, OTHER, order=1)
        cluster.set_pod(pending, OTHER)
        cluster.set_pod(OTHER, None)
        assert cluster.seen.surveys == [Survey(1, (0, 0)), Survey(1, (1, 0)), Survey(1, (0, 0))]


class TestTheLog:
    @pytest.fixture
    def lines(self, caplog: pytest.LogCaptureFixture) -> Callable[[int], list[tuple[str, str, str | None]]]:
        """Return the level, node and reason of each line about a node's pods, from some level on."""
        caplog.set_level(logging.DEBUG, logger="collector.collect")

        def lines(level: int) -> list[tuple[str, str, str | None]]:
            found = [
                (record.levelname, vars(record)["node"], vars(record).get("reason"))
                for record in caplog.records
                if record.levelno >= level and "ready pod" in record.message
            ]
            caplog.clear()
            return found

        return lines

    def test_a_node_is_warned_about_once_and_recovery_is_logged(self, lines: Any) -> None:
        cluster = Cluster(gpu_node(), gpu_node("m"), resume=False)
        cluster.set_pod(None, pod(node="m"))
        cluster.queue.resume()
        assert lines(logging.INFO) == [("WARNING", "n", "no_pod")]
        cluster.read()
        cluster.now += 1
        cluster.set_pod(None, NOT_READY)
        cluster.set_pod(NOT_READY, pod())
        assert lines(logging.INFO) == [("INFO", "n", "pod_not_ready"), ("INFO", "n", None)]

    def test_a_replaced_pod_is_not_a_warning(self, lines: Any) -> None:
        cluster = Cluster(gpu_node())
        cluster.set_pod(None, pod())
        cluster.set_pod(None, pod(node="elsewhere", name="q"))
        cluster.read()
        lines(logging.DEBUG)
        cluster.set_pod(pod(), None)
        cluster.set_pod(None, pod(name="new"))
        assert lines(logging.INFO) == [("INFO", "n", "no_pod"), ("INFO", "n", None)]

    def test_a_pod_that_stays_away_is_warned_about_after_grace(self, lines: Any) -> None:
        cluster = Cluster(gpu_node())
        cluster.set_pod(None, pod(node="elsewhere", name="q"))
        cluster.set_pod(None, pod())
        cluster.read()
        cluster.set_pod(pod(), NOT_READY)
        lines(logging.DEBUG)
        cluster.now += GRACE
        assert cluster.uncovered == {"n": "pod_not_ready"}
        assert lines(logging.INFO) == [("WARNING", "n", "pod_not_ready")]
        cluster.set_pod(NOT_READY, NOT_READY)
        assert lines(logging.INFO) == []

    def test_a_node_that_comes_back_is_warned_about_again(self, lines: Any) -> None:
        cluster = Cluster(gpu_node(), resume=False)
        cluster.set_pod(None, NOT_READY)
        cluster.queue.resume()
        assert lines(logging.INFO) == [("WARNING", "n", "pod_not_ready")]
        cluster.queue.set_node(gpu_node(), None)
        cluster.queue.set_node(None, gpu_node())
        assert lines(logging.INFO) == [("WARNING", "n", "pod_not_ready")]

    def test_nodes_are_not_warned_about_if_no_source_matches(self, lines: Any) -> None:
        Cluster(*(gpu_node(f"n{number}") for number in range(50)))
        assert {level for level, _, _ in lines(logging.DEBUG)} == {"DEBUG"}


def test_reasons_of_coverage_and_of_failures_are_one_closed_set() -> None:
    assert ReadFailure.NO_CONTAINER.value not in {reason.value for reason in Uncovered}
