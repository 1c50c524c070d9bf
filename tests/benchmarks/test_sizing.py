"""The page on sizing says what was measured, and what it estimates agrees with that."""

import re

import pytest

from tests.benchmarks.sizing import PAGE, RESULTS, memory_mib, page_with_tables


def test_the_tables_match_the_results():
    page = PAGE.read_text()
    assert page == page_with_tables(page, RESULTS.read_text()), "run `python -m tests.benchmarks.sizing`"


@pytest.mark.parametrize(("clusters", "nodes"), [(1, 1_000), (20, 2_000), (100, 100_000)])
def test_estimated_memory_matches_the_measurements(clusters: int, nodes: int):
    row = {1: "1 cluster ", 20: "20 clusters ", 100: "100 clusters "}[clusters]
    (measured,) = re.findall(rf"^\| {row}.*?\| ([\d,]+) MiB \|", PAGE.read_text(), re.MULTILINE)
    assert memory_mib(clusters, nodes) == pytest.approx(float(measured.replace(",", "")), rel=0.25)
