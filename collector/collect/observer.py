"""The interface through which a cluster's task reports to the rest of the program."""

from collections.abc import Sequence
from typing import Protocol

from collector.kube.identity import Proof
from collector.model import (
    ClusterStatus,
    Gpu,
    GpuRef,
    NodeInfo,
    ReadFailure,
    Reading,
    SliceStatus,
    Survey,
    UnreadReason,
    WatchRestart,
)
from collector.tls import Validity

__all__ = ["Observer"]


class Observer(Protocol):
    """Receives events of clusters on the event loop: no method may block. Times are Unix seconds."""

    def on_reading(self, reading: Reading, seconds: float) -> None:
        """Handle a reading, which took `seconds` from the request to the parsed output."""

    def on_read_failure(
        self,
        cluster: str,
        node: str,
        reason: ReadFailure,
        message: str,
        lost: Sequence[GpuRef],
        wait: float | None = None,
    ) -> None:
        """Handle a failed reading, with the reason in one line; the node's previous reading remains valid.

        `lost` are the unresponsive GPUs that made the reading fail. `wait` is the number of seconds until the node is
        read again if nothing about it changes before; None if unknown.
        """

    def known_gpus(self, cluster: str, node: str) -> Sequence[Gpu]:
        """Return the GPUs known to be in a node from its readings."""

    def on_node(self, cluster: str, node: NodeInfo, *, has_pod: bool = True) -> None:
        """Handle a node with GPUs or a GPU pod that is new, or whose info or `has_pod` has changed."""

    def on_uncovered(self, cluster: str, node: str, reason: UnreadReason | None) -> None:
        """Handle a node not covered by a ready pod, and why; None: it is covered now."""

    def on_node_gone(self, cluster: str, node: str, time: float) -> None:
        """Handle a node that was deleted, or that has had no GPU pod for longer than `grace`.

        A node with GPUs according to Kubernetes is new afterwards, with unknown GPUs.
        """

    def on_survey(self, cluster: str, survey: Survey) -> None:
        """Handle the size of the cluster, once everything has been listed, and on every change."""

    def on_status(self, status: ClusterStatus) -> None:
        """Handle a change of the cluster's state, or of the message that explains it."""

    def on_slices(self, cluster: str, status: SliceStatus) -> None:
        """Handle whether the cluster's ResourceSlices are visible, initially and on every change."""

    def on_synced(self, cluster: str, time: float) -> None:
        """Handle new proof that the whole view of the cluster was current at `time`."""

    def on_credential_expiry(self, cluster: str, expiry: Validity | None) -> None:
        """Handle the validity of credentials that gpuid cannot renew; None if they do not expire."""

    def on_session(self, cluster: str) -> None:
        """Handle a new session of the cluster: there is no proof yet of its server."""

    def on_proof(self, cluster: str, proofs: frozenset[Proof]) -> None:
        """Handle all proofs of the server's identity, on every change."""

    def on_watch_restart(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        """Handle a watch of `pods`, `nodes` or `resourceslices` that had to be restarted."""
