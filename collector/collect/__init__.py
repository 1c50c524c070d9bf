"""From a cluster to readings: its task, its nodes and pods, when each node is read, and what nvidia-smi reports."""
