"""What the task of one cluster reports to the rest of the program."""

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
    """Receives what happens in clusters, on the event loop: no method may block. Times are Unix seconds."""

    def on_reading(self, reading: Reading, seconds: float) -> None:
        """Handle a reading, which took `seconds` from asking for it to the parsed output."""

    def on_read_failure(
        self,
        cluster: str,
        node: str,
        reason: ReadFailure,
        message: str,
        lost: Sequence[GpuRef],
        wait: float | None = None,
    ) -> None:
        """Handle a failed reading, with why in one line; the node's previous reading remains valid.

        `lost` are GPUs that did not respond, which is what the reading failed for. `wait` is in how many seconds the
        node is read again if nothing about it changes before; None if that is not known.
        """

    def known_gpus(self, cluster: str, node: str) -> Sequence[Gpu]:
        """Return the GPUs that are known to be in a node, as its readings found them."""

    def on_node(self, cluster: str, node: NodeInfo, *, has_pod: bool = True) -> None:
        """Handle a node with GPUs or a GPU pod that is new, or of which info or `has_pod` has changed."""

    def on_uncovered(self, cluster: str, node: str, reason: UnreadReason | None) -> None:
        """Handle a node that no ready pod covers, and why; None: one does now."""

    def on_node_gone(self, cluster: str, node: str, time: float) -> None:
        """Handle a node that was deleted, or that has had no GPU pod for longer than `grace`.

        A node that Kubernetes says has GPUs is new afterwards, with nothing known of them.
        """

    def on_survey(self, cluster: str, survey: Survey) -> None:
        """Handle how much there is in the cluster, once all of it has been listed, and whenever that changes."""

    def on_status(self, status: ClusterStatus) -> None:
        """Handle a change of the cluster's state, or of the message that explains it."""

    def on_slices(self, cluster: str, status: SliceStatus) -> None:
        """Handle whether the cluster's ResourceSlices are seen, first and whenever that changes."""

    def on_synced(self, cluster: str, time: float) -> None:
        """Handle new proof that the whole view of the cluster is current up to `time`."""

    def on_credential_expiry(self, cluster: str, expiry: Validity | None) -> None:
        """Handle when credentials are good that gpuid cannot renew by itself; None if they do not end."""

    def on_session(self, cluster: str) -> None:
        """Handle that the cluster has a new session: nothing proves yet with which server."""

    def on_proof(self, cluster: str, proofs: frozenset[Proof]) -> None:
        """Handle all that is proven of which server the cluster is read from, whenever that changes."""

    def on_watch_restart(self, cluster: str, resource: str, reason: WatchRestart) -> None:
        """Handle a watch of `pods`, `nodes` or `resourceslices` that had to be restarted."""
