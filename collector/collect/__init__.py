"""From a cluster to readings: its task, its nodes and pods, which node is read when, and what nvidia-smi says."""
