"""Comparisons with what else could do the work, each a ratio within one run: `python -m tests.benchmarks`."""
