"""Reads clusters: the task per cluster, its nodes and pods, when each node is read, and what nvidia-smi reports."""
