"""What happens to the GPUs and machines of a simulated cluster."""

from typing import Literal

from collector.health import Health
from collector.simulator.actions import Done, accepts, action
from collector.simulator.cluster_base import ClusterBase
from collector.simulator.fleet import SimulationError
from collector.text import counted

__all__ = ["GpuActions"]


class GpuActions(ClusterBase):
    """Actions on nodes and their GPUs."""

    @action
    def move_gpu(
        self,
        node: str | None = None,
        to_node: str | None = None,
        to_cluster: str | None = None,
        uuid: str | None = None,
        reboot: bool = True,
    ) -> Done:
        """Move a GPU (GB200: the board with two) to another node; both nodes reboot unless reboot is false."""
        target = self._sibling(to_cluster or self.name)
        source = self._node(node)
        others = [other for other in target.nodes if (target.name, other) != (self.name, source)]
        if to_node is None and not others:
            raise SimulationError(f"{target.name}: no other node to move a GPU to")
        destination = to_node or target._random.choice(others)  # noqa: SLF001  a cluster of the same class
        gpus = self._fleet.move(self.name, source, target.name, destination, uuid)
        if reboot:
            target._boot(destination)  # noqa: SLF001
            self._boot(source)
        where = destination if target is self else f"{destination} of {target.name}"
        return self._done(f"moved {', '.join(gpus)} from {source} to {where}", (source, destination), gpus)

    @action
    def swap_tray(
        self, node: str | None = None, reboot: bool = True, kind: Literal["h100", "gb200", "v100"] | None = None
    ) -> Done:
        """Replace all GPUs of a node with new ones, as a repair does; the node reboots unless reboot is false.

        They are of the kind that was there before, unless another one is given.
        """
        node = self._node(node)
        gpus = self._fleet.swap_tray(self.name, node, kind)
        if reboot:
            self._boot(node)
        return self._done(f"replaced all {len(gpus)} GPUs of {node}", (node,), gpus)

    @action
    def replace_gpu(
        self, node: str | None = None, uuid: str | None = None, by: str | None = None, reboot: bool = True
    ) -> Done:
        """Take a GPU (GB200: the board with two) out for repair; `by` (a UUID taken out before) or a new one goes in.

        The node reboots unless reboot is false.
        """
        node, uuid = self._gpu(node, uuid, None)
        gpus = self._fleet.replace(self.name, node, uuid, by)
        if reboot:
            self._boot(node)
        return self._done(f"replaced {gpus[-1]} of {node} by {gpus[0]}", (node,), gpus)

    @action
    def reboot_node(self, node: str | None = None) -> Done:
        """Reboot a node: new boot ID, restarted containers; GPUs that had fallen off the bus are back."""
        node = self._node(node)
        self._boot(node)
        return self._done(f"rebooted {node}", (node,))

    @action
    def migrate_node(self, node: str | None = None) -> Done:
        """Move a node's VM to another host: the same node, other GPUs."""
        node = self._node(node)
        gpus = self._fleet.migrate(self.name, node)
        self._boot(node)
        return self._done(f"{node} came back on another host with {len(gpus)} other GPUs", (node,), gpus)

    @action
    def delete_node(self, node: str | None = None) -> Done:
        """Delete a node and its pods; its host and GPUs become free for the next new or migrated node."""
        node = self._node(node)
        if self.objects.has_pod(node):
            self.server.execs.kill(self.pod(node))
        self.objects.delete_node(node)
        self.slices.delete(node)
        gpus = self._fleet.remove(self.name, node)
        return self._done(f"deleted {node}", (node,), gpus)

    @action
    def add_node(self, node: str | None = None) -> Done:
        """Add a node, with its pods, on a free host if there is one."""
        if node is None:
            taken = set(self.nodes)
            node = next(name for number in range(10_000_000) if (name := f"gpu-{number:04d}") not in taken)
        gpus = self._fleet.add(self.name, node)
        self.objects.add_node(node)
        self.slices.update(node)
        return self._done(f"added {node} with {len(gpus)} GPUs", (node,), gpus)

    @action
    def lose_gpu(
        self, node: str | None = None, uuid: str | None = None, listed: bool = False, silent: bool = False
    ) -> Done:
        """Make a GPU fall off the bus: fewer are allocatable, the capacity stays; listed shows "GPU is lost".

        With silent, nvidia-smi prints nothing but that it cannot reach this GPU, unless another one is asked for (-i).
        """
        node = self._node(node)
        gpus = self._fleet.lose(self.name, node, uuid, listed=listed, silent=silent)
        self.objects.set_allocatable(node)
        self.slices.update(node)
        return self._done(f"{gpus[0]} fell off the bus of {node}", (node,), gpus)

    @action
    @accepts(Health)
    def wear_gpu(
        self,
        node: str | None = None,
        uuid: str | None = None,
        index: int | None = None,
        restart: bool = True,
        **health: int | bool | str,
    ) -> Done:
        """Change the wear of a GPU, by the fields of its health; it persists wherever the GPU goes.

        Counts are what they then are, not what is added. If no GPU is given, it is one that has all of it, as new if
        there is one. Unless restart is false, the pod's container restarts, so that the change is noticed soon.
        """
        if (node, uuid) == (None, None) and (fitting := self._fleet.wearable(self.name, health)):
            node = self._random.choice(fitting)
        node, uuid = self._gpu(node, uuid, index)
        gpus = self._fleet.wear(self.name, node, uuid, health)
        self._notice(node, restart)
        listed = ", ".join(f"{field}={value}" for field, value in health.items()) or "nothing"
        return self._done(f"{gpus[0]} on {node}: {listed}", (node,), gpus)

    @action
    def reset_gpu(
        self, node: str | None = None, uuid: str | None = None, index: int | None = None, restart: bool = True
    ) -> Done:
        """Reset a GPU: pending rows are remapped, pending pages retired, pending repairs done; no action is left."""
        node, uuid = self._gpu(node, uuid, index)
        gpus = self._fleet.reset(self.name, node, uuid)
        self._notice(node, restart)
        return self._done(f"reset {gpus[0]} on {node}", (node,), gpus)

    @action
    def flash_inforom(
        self, node: str | None = None, uuid: str | None = None, index: int | None = None, restart: bool = True
    ) -> Done:
        """Write another InfoROM to a GPU: all of its counters restart at zero."""
        node, uuid = self._gpu(node, uuid, index)
        gpus = self._fleet.flash(self.name, node, uuid)
        self._notice(node, restart)
        return self._done(f"{gpus[0]} on {node} has another InfoROM", (node,), gpus)

    @action
    def set_driver(
        self, form: Literal["418", "450", "535", "570", "580", "610"], node: str | None = None, restart: bool = True
    ) -> Done:
        """Install another driver, which may report less or more, on one or all nodes; the pods' containers restart."""
        nodes = self.nodes if node is None else [self._node(node)]
        for each in nodes:
            self._drivers[each] = form
            self._notice(each, restart)
        return self._done(f"the driver of {counted(len(nodes), 'node')} is of form {form}", tuple(nodes))

    @action
    def set_mig(self, node: str | None = None, enabled: bool = True, labelled: bool = True) -> Done:
        """Turn MIG on or off on a node: instances are counted instead of GPUs; the pod's container restarts.

        Unless labelled, no label says so, as without GPU feature discovery.
        """
        node = self._node(node)
        gpus = self._fleet.set_mig(self.name, node, enabled)
        self.objects.set_mig(node, enabled=enabled, labelled=labelled)
        self.slices.update(node)
        self._restart_if_there(node)
        return self._done(f"MIG is {'on' if enabled else 'off'} on {node}", (node,), gpus)

    @action
    def share_gpus(self, node: str | None = None, replicas: int = 4, label: int | None = None) -> Done:
        """Time-slice a node's GPUs: each is counted `replicas` times, as the label says unless it says `label`.

        A label of 0 is none, as without GPU feature discovery. The pod's container restarts.
        """
        if replicas < 1:
            raise SimulationError(f"{self.name}: replicas must be at least 1, got {replicas}")
        node = self._node(node)
        self.objects.share_gpus(node, replicas, label=replicas if label is None else label)
        self._restart_if_there(node)
        return self._done(f"{node} offers each GPU {replicas} times", (node,))

    @action
    def hide_serials(self, node: str | None = None) -> Done:
        """Make a node's GPUs report no serial; the pod's container restarts."""
        node = self._node(node)
        gpus = self._fleet.hide_serials(self.name, node)
        self._restart(node, new_sandbox=False)
        return self._done(f"the GPUs of {node} report no serial", (node,), gpus)

    @action
    def make_virtual(self, node: str | None = None) -> Done:
        """Turn a node into a virtual machine with vGPUs: shares of its host's boards; the pod's container restarts."""
        node = self._node(node)
        gpus = self._fleet.make_virtual(self.name, node)
        self._restart(node, new_sandbox=False)
        return self._done(f"the GPUs of {node} are virtual", (node,), gpus)

    @action
    def pair_gpus(self, node: str | None = None) -> Done:
        """Put a node's GPUs on boards of two, which share and report a serial; the pod's container restarts."""
        node = self._node(node)
        gpus = self._fleet.pair_gpus(self.name, node)
        self._restart(node, new_sandbox=False)
        return self._done(f"the GPUs of {node} share boards", (node,), gpus)

    @action
    def run_process(
        self, name: str, node: str | None = None, encoding: Literal["utf-8", "latin-1", "gbk"] = "utf-8"
    ) -> Done:
        """Run a process of some name, in some encoding, on a node's GPUs; nvidia-smi prints the name verbatim."""
        node = self._node(node)
        gpus = self._fleet.run_process(self.name, node, name.encode(encoding, "replace"))
        return self._done(f"a process runs on the GPUs of {node}", (node,), gpus)
