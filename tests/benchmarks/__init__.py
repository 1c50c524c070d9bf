"""Benchmarks: each prints one table of ratios against a peer measured in the same run."""
