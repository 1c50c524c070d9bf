"""What happens to the pods, labels and ResourceSlices of a simulated cluster."""

from collector.simulator.actions import Done, action
from collector.simulator.cluster_base import ClusterBase
from collector.simulator.slices import SliceVersion

__all__ = ["PodActions"]


class PodActions(ClusterBase):
    """Actions on the objects that Kubernetes keeps."""

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
