"""Decides which pod of a node is read, and when. No I/O: values, time and randomness are passed in."""

import random
from collections.abc import Collection, Iterable

import msgspec

from collector.backoff import Backoff
from collector.collect.log_times import LookPolicy
from collector.collect.objects import Container, PodObject
from collector.config import PodSource
from collector.model import Fingerprint, GpuRef, Known, NodeInfo, ReadFailure, Uncovered, UnreadReason

__all__ = [
    "Attempt",
    "Candidate",
    "RetryPolicy",
    "choose",
    "due",
    "failed",
    "find_container",
    "fingerprint",
    "lacks_container",
    "ready",
    "resumed",
    "succeeded",
    "why_uncovered",
]


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How soon a node is read again, in seconds, other than for its refresh."""

    backoff: Backoff = Backoff(initial=1.0, maximum=300.0)  # after failures, for as long as the pod lives
    timeout_delay: float = 300.0  # after the first command that timed out; doubles up to the cluster's `refresh`
    settle: float = 5.0  # between readings caused only by a change of GPU capacity
    first_document: float = 360.0  # for which a log may be empty after a pod's start or a rotation
    newer_document: Backoff = Backoff(initial=5.0, maximum=30.0)  # while a document that settles a claim is awaited
    newer_patience: float = 900.0  # for which it is awaited; printers take a few minutes between two
    looks: LookPolicy = LookPolicy()  # at a log whose node was read

    def after_timeout(self, refresh: float) -> Backoff:
        """Return the delays after commands that timed out.

        A command that hangs on a broken GPU stays on its node forever, so there must be few of them.
        """
        return Backoff(initial=self.timeout_delay, maximum=refresh)


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A pod of a node, and the source that selects it."""

    order: int  # of the source in the configuration
    source: PodSource
    pod: PodObject


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The last attempt to read a node. Times are those of the clock that is passed in, not wall-clock times."""

    fingerprint: Fingerprint
    ended: float
    next: float  # when the node is due again if nothing about it changes
    failures: int = 0  # in a row; 0 after a success
    timeouts: int = 0  # of these, commands that timed out


def ready(pod: PodObject) -> bool:
    """Return whether a pod can run a command: it is running and ready, with all containers, and not terminating.

    When a kubelet is gone, its pods and their container statuses remain; only the pods' condition shows it.
    """
    if not pod.running or pod.terminating or not pod.ready:
        return False
    return bool(pod.containers) and all(container.ready for container in pod.containers)


def choose(candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the pod to read, the newest ready one of the first source with any; None if no pod is ready.

    A source's selector may match unrelated pods. Those without the named container are skipped.
    """
    usable = [candidate for candidate in candidates if ready(candidate.pod) and find_container(candidate) is not None]
    usable.sort(key=lambda candidate: (candidate.pod.created, candidate.pod.uid), reverse=True)
    return min(usable, key=lambda candidate: candidate.order, default=None)


def why_uncovered(candidates: Collection[Candidate]) -> UnreadReason | None:
    """Return why none of a node's pods can be read; None if one can."""
    if choose(candidates) is not None:
        return None
    if not candidates:
        return Uncovered.NO_POD
    return ReadFailure.NO_CONTAINER if all(map(lacks_container, candidates)) else Uncovered.POD_NOT_READY


def lacks_container(candidate: Candidate) -> bool:
    """Return whether a pod is known to lack the container that its source names."""
    return bool(candidate.pod.containers) and find_container(candidate) is None


def find_container(candidate: Candidate) -> Container | None:
    """Return the container that the source names; None if the pod has no such container."""
    name = candidate.source.container
    return next((container for container in candidate.pod.containers if container.name == name), None)


def fingerprint(candidate: Candidate, node: NodeInfo, listed: tuple[GpuRef, ...] | None = None) -> Fingerprint:
    """Return what a reading made now depends on; `listed` are the node's GPUs in ResourceSlices."""
    container = find_container(candidate)
    return Fingerprint(
        pod_uid=candidate.pod.uid,
        container_id=container.id if container else "",
        restarts=container.restarts if container else 0,
        boot_id=node.boot_id,
        capacity=node.advertised[0],
        allocatable=node.advertised[1],
        listed=listed,
    )


def due(last: Attempt | None, current: Fingerprint, now: float, *, settle: float) -> float:
    """Return when a node is due to be read.

    If nothing has changed since the last attempt: at the time that it set. If only capacity, allocatable or the
    ResourceSlices have changed, the device plugin or the DRA driver is starting or stopping, or considers a GPU
    unhealthy: such readings stay `settle` seconds apart. If anything else has changed: now.
    """
    if last is None:
        return now
    if last.fingerprint == current:
        return last.next
    alike = msgspec.structs.replace(
        last.fingerprint, capacity=current.capacity, allocatable=current.allocatable, listed=current.listed
    )
    if alike == current:
        return max(now, last.ended + settle)
    return now


def resumed(known: Known, age: float, now: float, refresh: float, rng: random.Random) -> Attempt:
    """Return the attempt of an earlier run that read the node `age` seconds ago.

    The refresh falls into the second half of the remaining interval. A negative age means that the clock was set back;
    nothing waits for it to catch up.
    """
    age = max(0.0, age)
    left = max(0.0, refresh - age)
    return Attempt(fingerprint=known.fingerprint, ended=now - age, next=now + _second_half(left, rng))


def succeeded(last: Attempt | None, current: Fingerprint, now: float, refresh: float, rng: random.Random) -> Attempt:
    """Return the attempt after a success.

    All nodes are first read in one burst; the first refreshes are spread over the second half of the interval, and
    later ones keep apart by a jitter of 5 %.
    """
    first = last is None or last.failures > 0
    wait = _second_half(refresh, rng) if first else refresh * rng.uniform(0.95, 1.05)
    return Attempt(fingerprint=current, ended=now, next=now + wait)


def failed(
    last: Attempt | None, current: Fingerprint, now: float, backoff: Backoff, rng: random.Random, *, hung: bool = False
) -> Attempt:
    """Return the attempt after a failure; consecutive failures back off until something about the node changes.

    Those whose command `hung` are counted separately, because they have a `backoff` of their own.
    """
    failures, timeouts = 0, 0
    if last is not None and last.fingerprint == current:
        failures, timeouts = last.failures, last.timeouts
    wait = backoff.delay(timeouts if hung else failures - timeouts, rng)
    return Attempt(
        fingerprint=current, ended=now, next=now + wait, failures=failures + 1, timeouts=timeouts + int(hung)
    )


def _second_half(interval: float, rng: random.Random) -> float:
    return interval * rng.uniform(0.5, 1.0)
