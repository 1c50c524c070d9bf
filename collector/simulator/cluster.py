"""One simulated cluster: its API server, and the actions that change it or inject faults."""

import random
import secrets
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from collector.health import Health
from collector.simulator import errors, smi
from collector.simulator.actions import Done, accepts, action
from collector.simulator.cluster_objects import ClusterObjects
from collector.simulator.faults import Counters, ExecFault, ExecFaultKind, LogFault, LogFaultKind, Misbehaviour
from collector.simulator.fleet import Fleet, SimulationError
from collector.simulator.objects import ObjectFactory
from collector.simulator.printing import PRINT_SECONDS
from collector.simulator.server import ApiServer, describe
from collector.simulator.shapes import Shape
from collector.simulator.slices import Slices, SliceVersion
from collector.simulator.storage import Storage
from collector.text import counted

__all__ = ["DEFAULT_AGE_SECONDS", "SimulatedCluster"]

DEFAULT_AGE_SECONDS = 86400.0  # of the first objects when the simulation starts


class SimulatedCluster:
    """The API server of a cluster with its nodes, pods and GPUs.

    Each action is one physical or administrative event with all its effects in Kubernetes. An action on a node picks
    one if none is given; the seed determines which.
    """

    def __init__(
        self,
        name: str,
        fleet: Fleet,
        shape: Shape,
        *,
        siblings: Mapping[str, "SimulatedCluster"],
        on_token: Callable[[], None],
        on_authority: Callable[[], None],
        seed: int,
        latency: float,
        bookmark_interval: float,
        context: ssl.SSLContext,
        host: str,
        driver: str,
        age: float,
    ) -> None:
        self.name = name
        self._fleet = fleet
        self._siblings = siblings
        self._on_token = on_token
        self._on_authority = on_authority
        self._random = random.Random(f"{seed}/{name}")  # noqa: S311  a simulation must be repeatable
        self._storage = Storage()
        self._driver = driver
        self._drivers: dict[str, str] = {}  # the forms of those that are other ones, by node
        factory = ObjectFactory(name, fleet.kind(name), shape, seed, time.time() - age, self._driver)
        self.objects = ClusterObjects(name, fleet, self._storage, factory)
        self.slices = Slices(name, fleet, self._storage, factory)
        if shape.slices:
            self.slices.publish("v1")
        self.server = ApiServer(
            self._storage,
            token=_new_token(name),
            slices=self.slices,
            run_smi=self._run_smi,
            image=shape.image,
            latency=latency,
            bookmark_interval=bookmark_interval,
            context=context,
            host=host,
        )
        self._port = 0

    @property
    def url(self) -> str:
        """The URL of the API server, whether it runs or not."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.server.host, self.server.host)  # noqa: S104  compared
        return f"https://{host}:{self._port}"

    @property
    def token(self) -> str:
        """The bearer token that the server accepts."""
        return self.server.token

    @property
    def counters(self) -> Counters:
        """The counters of the API server."""
        return self.server.counters

    @property
    def shape(self) -> Shape:
        """The distribution that it imitates."""
        return self.objects.shape

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes with GPUs."""
        return self._fleet.nodes(self.name)

    def pod(self, node: str) -> str:
        """Return the GPU pod of a node, as `namespace/name`."""
        return self.objects.pod(node)

    def node_object(self, node: str) -> bytes:
        """Return a node as the API server sends it, as JSON."""
        return self.objects.node_object(node)

    def describe(self) -> dict[str, Any]:
        """Return the state and counters of the cluster as JSON values."""
        facts = {
            "name": self.name,
            "shape": self.shape.name,
            "kind": self._fleet.kind(self.name),
            "driver": self._driver,
            "gpu_nodes": len(self.nodes),
        }
        return facts | describe(self.server)

    # Machines

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
        self.restart_container(node)
        return self._done(f"the GPUs of {node} report no serial", (node,), gpus)

    @action
    def make_virtual(self, node: str | None = None) -> Done:
        """Turn a node into a virtual machine with vGPUs: shares of its host's boards; the pod's container restarts."""
        node = self._node(node)
        gpus = self._fleet.make_virtual(self.name, node)
        self.restart_container(node)
        return self._done(f"the GPUs of {node} are virtual", (node,), gpus)

    @action
    def pair_gpus(self, node: str | None = None) -> Done:
        """Put a node's GPUs on boards of two, which share and report a serial; the pod's container restarts."""
        node = self._node(node)
        gpus = self._fleet.pair_gpus(self.name, node)
        self.restart_container(node)
        return self._done(f"the GPUs of {node} share boards", (node,), gpus)

    @action
    def run_process(
        self, name: str, node: str | None = None, encoding: Literal["utf-8", "latin-1", "gbk"] = "utf-8"
    ) -> Done:
        """Run a process of some name, in some encoding, on a node's GPUs; nvidia-smi prints the name verbatim."""
        node = self._node(node)
        gpus = self._fleet.run_process(self.name, node, name.encode(encoding, "replace"))
        return self._done(f"a process runs on the GPUs of {node}", (node,), gpus)

    # Pods

    @action
    def restart_pod(self, node: str | None = None) -> Done:
        """Restart a node's pod in a new sandbox: the same pod, another address, a new container."""
        node = self._node(node)
        self._restart(node, new_sandbox=True)
        return self._done(f"restarted the pod of {node}", (node,))

    @action
    def restart_container(self, node: str | None = None) -> Done:
        """Restart the container of a node's pod: the same pod, a new container ID, one more restart."""
        node = self._node(node)
        self._restart(node, new_sandbox=False)
        return self._done(f"restarted the container on {node}", (node,))

    @action
    def replace_pod(self, node: str | None = None) -> Done:
        """Delete a node's pod; the DaemonSet creates a new one with another name and UID."""
        node = self._node(node)
        self.server.execs.kill(self.objects.delete_pod(node))
        self.objects.add_pod(node)
        return self._done(f"replaced the pod of {node} with {self.pod(node)}", (node,))

    @action
    def set_ready(self, node: str | None = None, ready: bool = True) -> Done:
        """Make a node's pod ready or not ready; its container keeps running."""
        node = self._node(node)
        self.objects.set_pod_ready(node, ready=ready)
        return self._done(f"the pod of {node} is {'ready' if ready else 'not ready'}", (node,))

    @action
    def set_kubelet(self, node: str | None = None, reports: bool = False) -> Done:
        """Stop or start the kubelet of a node; while it does not report, node and pod are not ready."""
        node = self._node(node)
        self.objects.set_kubelet(node, reports=reports)
        return self._done(f"the kubelet of {node} {'reports' if reports else 'does not report'}", (node,))

    @action
    def remove_pod(self, node: str | None = None) -> Done:
        """Delete a node's pod; it is not replaced until restore_pod."""
        node = self._node(node)
        self.server.execs.kill(self.objects.delete_pod(node))
        return self._done(f"removed the pod of {node}", (node,))

    @action
    def restore_pod(self, node: str | None = None) -> Done:
        """Create the pod of a node, or of every node, that has none."""
        nodes = self.nodes if node is None else [self._node(node)]
        bare = [each for each in nodes if not self.objects.has_pod(each)]
        for each in bare:
            self.objects.add_pod(each)
        return self._done(f"created the pods of {len(bare)} nodes", tuple(bare))

    @action
    def relabel_pods(self, app: str = "nvidia-device-plugin") -> Done:
        """Change the label `app` of every device-plugin pod, so that the preset matches none of them."""
        for node in self.nodes:
            if self.objects.has_pod(node):
                self.objects.relabel_pod(node, app)
        return self._done(f"the pods have the label app={app}", tuple(self.nodes))

    @action
    def rename_container(self, node: str | None = None, container: str = "gpu-feature-discovery") -> Done:
        """Rename the container of a node's pod, as in another DaemonSet's pod with the same label."""
        node = self._node(node)
        self.objects.rename_container(node, container)
        return self._done(f"the container on {node} is {container}", (node,))

    @action
    def label_node(self, labels: dict[str, str | None], node: str | None = None) -> Done:
        """Set labels of a node, with GPUs or without; null removes one."""
        node = self._node(None) if node is None else node
        self.objects.label_node(node, labels)
        return self._done(f"labelled {node}", (node,))

    @action
    def withdraw_gpus(self, node: str | None = None, forget: bool = False) -> Done:
        """Let Kubernetes count no GPUs on a node, as when its device plugin is gone; forget removes the resource."""
        node = self._node(node)
        self.objects.withdraw_gpus(node, forget=forget)
        return self._done(f"{node} offers no GPUs", (node,))

    @action
    def publish_slices(self, version: SliceVersion = "v1", split: bool = False, plugin: bool = False) -> Done:
        """Serve ResourceSlices, one for each node, or with split one for each GPU, as the NVIDIA DRA driver does.

        Unless `plugin`, there is no device plugin: nodes advertise no GPUs and have none of its labels.
        """
        for node in () if plugin else self.nodes:
            self.objects.withdraw_gpus(node, forget=True)
            self.objects.label_node(node, {"nvidia.com/gpu.present": None, "nvidia.com/gpu.count": None})
        self.slices.publish(version, split=split)
        return self._done("publishes ResourceSlices", tuple(self.nodes))

    @action
    def delete_slices(self, node: str | None = None) -> Done:
        """Delete the ResourceSlices of a node, as the kubelet does when the driver is gone."""
        node = self._node(node)
        self.slices.delete(node)
        return self._done(f"deleted the ResourceSlices of {node}", (node,))

    # API server

    @action
    def expire_versions(self, form: Literal["event", "status"] = "event") -> Done:
        """Compact the whole history: watches end, old versions get 410, as an ERROR event or as an HTTP status."""
        version = self._storage.version
        self._storage.compact()
        self.server.faults.expired_as_status = form == "status"
        if form == "event":
            message = f"too old resource version: {version} ({self._storage.compacted})"
            self._storage.fail_watches(errors.expired(message))
        else:
            self.server.connections.drop()
        return self._done("expired every resource version")

    @action
    def drop_connections(self) -> Done:
        """Break every open connection."""
        return self._done(f"dropped {self.server.connections.drop()} connections")

    @action
    def freeze_connections(self, new: bool = False) -> Done:
        """Keep the open connections open but silent; new also freezes those opened later."""
        return self._done(f"froze {self.server.connections.freeze(new=new)} connections")

    @action
    def thaw(self) -> Done:
        """Thaw frozen connections."""
        self.server.connections.thaw()
        return self._done("thawed all connections")

    @action
    def refuse_tokens(self) -> Done:
        """Answer 401 to every request; open connections stay open."""
        self.server.faults.refuses_tokens = True
        return self._done("rejects every token")

    @action
    def accept_tokens(self) -> Done:
        """Accept the kubeconfig's token again."""
        self.server.faults.refuses_tokens = False
        return self._done("accepts its token again")

    @action
    def rotate_token(self) -> Done:
        """Accept only a new token, and write it to the kubeconfig."""
        self.server.accounts.revoke()
        self.server.token = _new_token(self.name)
        self._on_token()
        return self._done("accepts only a new token")

    @action
    def bind_token(self, lifetime: float = 3600.0, age: float = 0.0) -> Done:
        """Accept only a service account's token, issued `age` seconds ago, and write it to the kubeconfig.

        It ends `lifetime` seconds after it was made, and renews itself by the TokenRequest API.
        """
        self.server.accounts.revoke()
        self.server.token = self.server.accounts.issue("gpuid", "gpuid", lifetime, age=age)
        self._on_token()
        return self._done(f"accepts only a service account's token of {lifetime:g} s")

    @action
    def change_authority(self, publish: bool = True) -> Done:
        """Present a certificate of a new authority; publish also writes the authority to the kubeconfig."""
        self._on_authority()
        self.server.connections.drop()
        if publish:
            self._on_token()
        return self._done("presents a certificate of a new authority")

    @action
    def publish_authority(self) -> Done:
        """Write the authority to the kubeconfig."""
        self._on_token()
        return self._done("its authority is in the kubeconfig")

    @action
    def restore_backup(self, versions: int = 300) -> Done:
        """Restore the API server's store from a backup: resource versions go back, connections break."""
        if not 0 < versions < self._storage.version:
            raise SimulationError(f"{self.name}: versions must be between 1 and {self._storage.version - 1}")
        self._storage.restore(versions)
        self.server.connections.drop()
        return self._done(f"restored a backup; the resource version is {self._storage.version}")

    @action
    def misbehave(self, how: Misbehaviour = Misbehaviour.SERVER_ERROR, requests: int | None = None) -> Done:
        """Answer the next requests, or all until behave, as no client expects."""
        self.server.faults.misbehaviour = how
        self.server.faults.misbehaviours_left = requests
        return self._done(f"misbehaves: {how}")

    @action
    def behave(self) -> Done:
        """Stop misbehaving."""
        self.server.faults.misbehaviour = None
        return self._done("behaves")

    @action
    def throttle(self, requests: int | None = None, retry_after: int = 1) -> Done:
        """Answer 429 with Retry-After (seconds) to the next requests, or to all until unthrottle."""
        self.server.faults.throttled = requests
        self.server.faults.retry_after = retry_after
        return self._done(f"throttles {'all requests' if requests is None else f'{requests} requests'}")

    @action
    def unthrottle(self) -> Done:
        """Stop answering 429."""
        self.server.faults.throttled = 0
        return self._done("no longer throttles")

    @action
    def deny(self, verb: str = "*", resource: str = "*", namespace: str = "*") -> Done:
        """Deny a right: 403 for the verb on the resource, such as list pods; namespace "" is across all namespaces."""
        self.server.faults.denied.add((verb, resource, namespace))
        where = "" if namespace == "*" else f" in {namespace or 'all namespaces'}"
        return self._done(f"denies {verb} {resource}{where}")

    @action
    def allow(self, verb: str | None = None, resource: str | None = None) -> Done:
        """Allow a denied right again, or all of them."""
        denied = self.server.faults.denied
        denied -= {one for one in denied if verb in (None, one[0]) and resource in (None, one[1])}
        return self._done(f"denies {len(denied)} rights")

    @action
    async def stop(self) -> Done:
        """Stop the API server: close its port and every connection."""
        await self.server.stop()
        return self._done("stopped the API server")

    @action
    async def start(self) -> Done:
        """Start the API server again on the same port."""
        if not self.server.running:
            await self.server.start(self._port)
        return self._done("started the API server")

    # Exec

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

    # Logs

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

    async def open(self, port: int) -> None:
        """Start the API server for the first time; raises ConfigError when the port is not available."""
        await self.server.start(port)
        self._port = self.server.port

    def _boot(self, node: str) -> None:
        self.objects.node_down(node)
        if has_pod := self.objects.has_pod(node):
            self._stop_pod(node)
        self._fleet.reboot(self.name, node)
        self.objects.node_up(node)
        self.slices.update(node)
        if has_pod:
            self.objects.start_pod(node, new_sandbox=True)

    def _restart(self, node: str, *, new_sandbox: bool) -> None:
        self._stop_pod(node)
        self.objects.start_pod(node, new_sandbox=new_sandbox)

    def _restart_if_there(self, node: str) -> None:
        if self.objects.has_pod(node):
            self._restart(node, new_sandbox=False)

    def _stop_pod(self, node: str) -> None:
        self.objects.stop_pod(node)
        self.server.execs.kill(self.pod(node))

    def _notice(self, node: str, restart: bool) -> None:
        if restart:
            self._restart_if_there(node)

    def _gpu(self, node: str | None, uuid: str | None, index: int | None) -> tuple[str, str | None]:
        """Return the node and UUID of a GPU that is given by its UUID, or by its number on a node."""
        if uuid is not None and node is None:
            place = next((one.node for one in self._fleet.expected(self.name) if one.uuid == uuid), None)
            if place is None:
                raise SimulationError(f"{self.name}: no GPU {uuid}")
            return place, uuid
        node = self._node(node)
        if uuid is None and index is not None:
            cards = self._fleet.cards(self.name, node)
            if not 0 <= index < len(cards):
                raise SimulationError(f"{self.name}: {node} has {counted(len(cards), 'GPU')}, no index {index}")
            return node, cards[index].uuid
        return node, uuid

    def _node(self, node: str | None) -> str:
        if node is None:
            if not self.nodes:
                raise SimulationError(f"{self.name}: no GPU nodes left")
            return self._random.choice(self.nodes)
        self._fleet.capacity(self.name, node)  # raises for an unknown node
        return node

    def _sibling(self, name: str) -> "SimulatedCluster":
        if name not in self._siblings:
            raise SimulationError(f"no cluster {name}; there are {', '.join(self._siblings)}")
        return self._siblings[name]

    def _run_smi(self, node: str, argv: Sequence[str]) -> smi.Printed:
        form = self._drivers.get(node, self._driver)
        return smi.run(self._fleet.kind(self.name), self._fleet.cards(self.name, node), argv, time.time(), form)

    def _done(self, message: str, nodes: tuple[str, ...] = (), gpus: list[str] | None = None) -> Done:
        return Done(f"{self.name}: {message}", self.name, nodes, tuple(gpus or ()))


def _nodes(node: str | None) -> tuple[str, ...]:
    return (node,) if node else ()


def _new_token(name: str) -> str:
    return f"{name}.{secrets.token_urlsafe(24)}"
