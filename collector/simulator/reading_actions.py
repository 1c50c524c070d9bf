"""What happens to the execs and logs of a simulated cluster, by which nodes are read."""

import time

from collector.simulator.actions import Done, action
from collector.simulator.cluster_base import ClusterBase
from collector.simulator.faults import ExecFault, ExecFaultKind, LogFault, LogFaultKind
from collector.simulator.printing import PRINT_SECONDS

__all__ = ["ReadingActions"]


class ReadingActions(ClusterBase):
    """Actions on what a client reads of a node."""

    @action
    def slow_exec(self, seconds: float, node: str | None = None) -> Done:
        """Delay execs on a node, or all, by some seconds; 0 ends the delay."""
        self.server.faults.delays[node or "*"] = seconds
        return self._done(f"delays execs by {seconds:g} s", _nodes(node))

    @action
    def hang_exec(self, node: str | None = None, times: int | None = None) -> Done:
        """Make execs on a node, or all, hang."""
        return self.fail_exec(ExecFaultKind.HANG, node, times=times)

    @action
    def fail_exec(
        self,
        how: ExecFaultKind = ExecFaultKind.EXIT_STATUS,
        node: str | None = None,
        exit_status: int = 9,
        stderr: str = "",
        times: int | None = None,
    ) -> Done:
        """Make execs on a node, or all, fail in one way, a number of times or until heal_exec."""
        self.server.faults.execs[node or "*"] = ExecFault(how, exit_status, stderr, times)
        return self._done(f"execs fail: {how}", _nodes(node))

    @action
    def heal_exec(self, node: str | None = None) -> Done:
        """Make execs on a node, or all, work again, without a delay."""
        for faults in (self.server.faults.execs, self.server.faults.delays):
            if node is None:
                faults.clear()
            else:
                faults.pop(node, None)
        return self._done("execs work again", _nodes(node))

    @action
    def add_readers(self, node: str | None = None, interval: float = PRINT_SECONDS, age: float = 0.0) -> Done:
        """Create the reader's pods on a node or all, `age` seconds ago: they print now and every `interval` seconds."""
        nodes = self.nodes if node is None else [self._node(node)]
        for each in nodes:
            self.objects.add_reader(each, time.time() - age)
        self.server.logs.set_interval(interval)
        return self._done(f"created the reader's pods on {len(nodes)} nodes", tuple(nodes))

    @action
    def print_now(self, node: str | None = None) -> Done:
        """Have the reader's pods on a node, or on all, print now."""
        self.server.logs.print_all(node)
        return self._done("printed", _nodes(node))

    @action
    def fail_log(
        self, how: LogFaultKind = LogFaultKind.EMPTY, node: str | None = None, seconds: float = 3600.0
    ) -> Done:
        """Corrupt the logs of the reader's pods on one or all nodes until heal_log; seconds: how old, or far ahead."""
        self.server.faults.logs[node or "*"] = LogFault(how, seconds)
        return self._done(f"logs are of no use: {how}", _nodes(node))

    @action
    def heal_log(self, node: str | None = None) -> Done:
        """Restore the logs of the reader's pods on one or all nodes."""
        if node is None:
            self.server.faults.logs.clear()
        else:
            self.server.faults.logs.pop(node, None)
        return self._done("logs work again", _nodes(node))


def _nodes(node: str | None) -> tuple[str, ...]:
    return (node,) if node else ()
