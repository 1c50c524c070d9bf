"""Which shard of an installation reads which cluster: rendezvous hashing of the clusters' names."""

import functools
import hashlib
import re

import msgspec

__all__ = ["MAX_SHARDS", "UNSHARDED", "Shard", "pod_ordinal", "shard_of"]

MAX_SHARDS = 1000

_ORDINAL = re.compile(r"-(0|[1-9]\d{0,3})\Z", re.ASCII)


class Shard(msgspec.Struct, frozen=True):
    """One of `total` shards, counted from 0; one of one reads all clusters."""

    index: int = 0
    total: int = 1

    def __post_init__(self) -> None:
        """Reject what is no shard."""
        if not 1 <= self.total <= MAX_SHARDS:
            raise ValueError(f"expected 1 to {MAX_SHARDS} shards, got {self.total}")
        if not 0 <= self.index < self.total:
            expected = f"one of shards 0 to {self.total - 1}" if self.sharded else "shard 0, the only one"
            raise ValueError(f"expected {expected}, got {self.index}")

    def __str__(self) -> str:
        """Return the name for people."""
        return f"shard {self.index} of {self.total}"

    @property
    def sharded(self) -> bool:
        """Whether there are others."""
        return self.total > 1

    def reads(self, cluster: str) -> bool:
        """Return whether it reads the cluster of this name."""
        return shard_of(cluster, self.total) == self.index


UNSHARDED = Shard()


def shard_of(cluster: str, total: int) -> int:
    """Return which of `total` shards reads a cluster.

    The same in every process and version. One more shard takes clusters from all others and moves none between them.
    """
    name = cluster.encode("utf-8", "surrogatepass")
    return max(range(total), key=lambda shard: (_score(shard, name), -shard))


def pod_ordinal(host_name: str) -> int:
    """Return the ordinal at the end of the host name of a StatefulSet's pod; raises ValueError."""
    if (found := _ORDINAL.search(host_name.partition(".")[0])) is None:
        raise ValueError(f"expected a host name that ends in an ordinal, such as 'gpuid-0', got {host_name[:100]!r}")
    return int(found[1])


def _score(shard: int, name: bytes) -> bytes:
    hashed = _seeded(shard).copy()
    hashed.update(name)
    return hashed.digest()


@functools.lru_cache(maxsize=MAX_SHARDS)
def _seeded(shard: int) -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=8, salt=shard.to_bytes(4, "big"))
