"""The shards of an installation as one of them sees them: which run, and who reads a cluster."""

from collections.abc import Iterable
from typing import NamedTuple

from collector.sharding import Shard
from collector.store import ClusterOwner, ShardLease
from collector.text import counted

__all__ = ["ShardState", "idle_shards", "read_by", "shard_states"]

MAX_NAMED_SHARDS = 3


class ShardState(NamedTuple):
    """One shard, as far as the store knows it."""

    shard: int
    holder: str  # host name and process, of the last one where none runs; empty if it never ran
    runs: bool

    def __str__(self) -> str:
        """Return a sentence without a full stop."""
        if self.runs:
            return f"shard {self.shard} is {self.holder}"
        return f"shard {self.shard} is not running" + (f"; the last one was {self.holder}" if self.holder else "")


def shard_states(shard: Shard, leases: Iterable[ShardLease]) -> list[ShardState]:
    """Return the shards that there should be, and those of another number of shards that still run; in their order."""
    if not shard.sharded:
        return []
    known = {lease.shard: ShardState(lease.shard, lease.holder, lease.held) for lease in leases}
    wanted = {index: known.get(index, ShardState(index, "", runs=False)) for index in range(shard.total)}
    left_over = {index: one for index, one in known.items() if one.runs}
    return sorted({**left_over, **wanted}.values())


def idle_shards(states: Iterable[ShardState]) -> str:
    """Return which shards do not run, as sentences; empty if all do."""
    texts = [str(one) for one in states if not one.runs]
    sentences = [f"{text[:1].upper()}{text[1:]}." for text in texts[:MAX_NAMED_SHARDS]]
    if (more := len(texts) - MAX_NAMED_SHARDS) > 0:
        sentences.append(f"{counted(more, 'more shard')} {'is' if more == 1 else 'are'} not running.")
    return " ".join(sentences)


def read_by(owner: ClusterOwner | None) -> str:
    """Return which shard reads a cluster, to follow "is"."""
    if owner is None or owner.shard is None:
        return "read by no shard"
    return f"read by shard {owner.shard}"
