"""All that talks to Kubernetes; what it finds out goes to an Observer."""

from collector.cluster.errors import ClusterError
from collector.cluster.watcher import ClusterWatcher, Observer

__all__ = ["ClusterError", "ClusterWatcher", "Observer"]
