"""The least rights that a collector needs in a cluster: manifests, how they are given and taken, and its tokens."""
