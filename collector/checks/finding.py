"""The result of a check: one type for clusters, the store and sinks."""

from enum import StrEnum

import msgspec

from collector.config import PodSource
from collector.text import one_line

__all__ = ["ClusterDetails", "Finding", "FitDetails", "PodCount", "Problem", "Subject", "TokenDetails"]


class Subject(StrEnum):
    """What can be checked."""

    CLUSTER = "cluster"
    STORE = "store"
    SINK = "sink"


class Problem(msgspec.Struct, frozen=True):
    """A problem, and how to fix it if known."""

    text: str
    hint: str = ""


class PodCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many pods one source matches."""

    namespace: str
    selector: str
    container: str
    ready: int
    total: int


class FitDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What would cover more GPU nodes than the configuration."""

    setting: str  # as TOML
    presets: tuple[str, ...]
    sources: tuple[PodSource, ...]  # instead of presets
    covered: int  # GPU nodes that it covers
    gpu_nodes: int | None  # None without the right to list nodes
    uncovered: tuple[str, ...]  # GPU nodes on which no known pod was seen
    namespaces: tuple[str, ...] | None  # namespaces searched; None: all


class TokenDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A bound service-account token with which a cluster is watched."""

    user: str
    expiry: str | None  # RFC 3339
    renewable: bool | None  # by gpuid; None if the server does not say
    kept: bool  # a renewed one is written to the token file, not only kept in memory


class ClusterDetails(msgspec.Struct, kw_only=True):
    """Details of a cluster; those the check did not reach are None or empty."""

    context: str | None
    server: str | None = None
    version: str | None = None
    latency_seconds: float | None = None  # of one small request on an open connection
    user: str | None = None
    rights: dict[str, bool] = {}  # "verb resource in namespace" -> granted
    pods: list[PodCount] = []
    read: str | None = None  # `namespace/pod` that nvidia-smi was run in
    node: str | None = None
    gpus: int | None = None
    driver_version: str | None = None
    fit: FitDetails | None = None
    resource_slices: str | None = None  # whether a DRA driver's ResourceSlices are visible, and what they list
    token: TokenDetails | None = None
    credential_expiry: str | None = None  # RFC 3339; when credentials expire that gpuid cannot renew itself


class Finding(msgspec.Struct, kw_only=True):
    """The result of checking one cluster, the store or one sink."""

    subject: Subject
    name: str
    type: str = ""  # the store's engine or the sink's type
    summary: str = ""  # shown when there are no findings
    problems: list[Problem] = []
    details: ClusterDetails | None = None

    @property
    def ok(self) -> bool:
        """True while no problem has been found."""
        return not self.problems

    @property
    def text(self) -> str:
        """All problems with their hints on one line, or the summary if there are none."""
        if self.ok:
            return self.summary
        return "; ".join(problem.text + (f" ({problem.hint})" if problem.hint else "") for problem in self.problems)

    def add_note(self, text: str) -> None:
        """Add to the summary, as one line."""
        self.summary = "; ".join(filter(None, (self.summary, one_line(text))))

    def add_problem(self, text: object, hint: str = "") -> None:
        """Add a problem, each part as one line."""
        self.problems.append(Problem(one_line(text), one_line(hint)))
