"""Every comparison runs, at a size that takes no time, and gives rows of the table; nothing is timed here."""

import re

import pytest

from tests.benchmarks.__main__ import COMPARISONS, main
from tests.benchmarks.table import HEAD


@pytest.mark.parametrize("name", COMPARISONS)
def test_each_gives_well_formed_rows(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--small"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert [head, rule] == HEAD.splitlines()
    assert rows
    for row in rows:
        what, ours, *_ = cells = row.strip("| ").split(" | ")
        assert row.count("|") == 6, row
        assert what, cells
        assert re.search(r"\d", ours), row


def test_an_unknown_name_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["scrap"])
    assert "there is no comparison scrap; there are scrape, change, watch" in capsys.readouterr().err
