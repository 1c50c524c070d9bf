"""Decides which pod of a node is read and when; pure: values, clock and randomness are passed in."""

import random
from collections.abc import Iterable

import msgspec

from collector.backoff import Backoff
from collector.collect.objects import Container, PodObject
from collector.config import PodSource
from collector.model import Fingerprint, Known, NodeInfo

__all__ = [
    "Attempt",
    "Candidate",
    "choose",
    "due",
    "failed",
    "find_container",
    "fingerprint",
    "ready",
    "resumed",
    "succeeded",
]


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A pod of a node, and the source that selects it; `order` is the source's place in the configuration."""

    order: int
    source: PodSource
    pod: PodObject


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The last attempt to read a node. Times are those of the clock that is passed in, not the calendar's."""

    fingerprint: Fingerprint
    ended: float
    next: float  # when the node is due again if nothing about it changes
    failures: int = 0  # in a row; 0 after a success


def ready(pod: PodObject) -> bool:
    """Tell whether a pod can be asked: running, all of its containers ready, and not on its way out."""
    return pod.running and not pod.terminating and bool(pod.containers) and all(one.ready for one in pod.containers)


def choose(candidates: Iterable[Candidate]) -> Candidate | None:
    """Find the pod to read: ready, of the first source that has one, the newest of that source."""
    return min(
        sorted(
            (one for one in candidates if ready(one.pod)), key=lambda one: (one.pod.created, one.pod.uid), reverse=True
        ),
        key=lambda one: one.order,
        default=None,
    )


def find_container(candidate: Candidate) -> Container | None:
    """Find the container to ask; None where the pod has none of the source's name."""
    return next((one for one in candidate.pod.containers if one.name == candidate.source.container), None)


def fingerprint(candidate: Candidate, node: NodeInfo) -> Fingerprint:
    """Sum up what a reading made now depends on."""
    container = find_container(candidate)
    return Fingerprint(
        pod_uid=candidate.pod.uid,
        container_id=container.id if container else "",
        restarts=container.restarts if container else 0,
        boot_id=node.boot_id,
        capacity=node.advertised[0],
        allocatable=node.advertised[1],
    )


def due(last: Attempt | None, current: Fingerprint, now: float, *, settle: float) -> float:
    """Tell when a node is to be read.

    At once where anything differs from the last attempt. GPUs that alone are fewer or more, in all or for pods to use,
    are the device plugin coming or going, or a GPU that it takes for ill: such readings stay `settle` seconds apart.
    Otherwise when the last attempt says.
    """
    if last is None:
        return now
    if last.fingerprint == current:
        return last.next
    counts = {"capacity": current.capacity, "allocatable": current.allocatable}
    if msgspec.structs.replace(last.fingerprint, **counts) == current:
        return max(now, last.ended + settle)
    return now


def resumed(known: Known, age: float, now: float, refresh: float, rng: random.Random) -> Attempt:
    """Carry on from a reading that an earlier run made `age` seconds ago; it is refreshed within what is left of it."""
    left = max(0.0, refresh - max(0.0, age))
    return Attempt(fingerprint=known.fingerprint, ended=now - age, next=now + _second_half(left, rng))


def succeeded(last: Attempt | None, current: Fingerprint, now: float, refresh: float, rng: random.Random) -> Attempt:
    """Note a success.

    All nodes are first read in one burst; the second half of the interval spreads them, and from then on they keep
    apart with a jitter of 5 %.
    """
    first = last is None or last.failures > 0
    wait = _second_half(refresh, rng) if first else refresh * rng.uniform(0.95, 1.05)
    return Attempt(fingerprint=current, ended=now, next=now + wait)


def failed(last: Attempt | None, current: Fingerprint, now: float, backoff: Backoff, rng: random.Random) -> Attempt:
    """Note a failure; each one in a row doubles the wait, until something about the node changes."""
    failures = last.failures if last is not None and last.fingerprint == current else 0
    return Attempt(fingerprint=current, ended=now, next=now + backoff.delay(failures, rng), failures=failures + 1)


def _second_half(interval: float, rng: random.Random) -> float:
    return interval * rng.uniform(0.5, 1.0)
