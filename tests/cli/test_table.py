"""Tables on standard output."""

import io
from contextlib import redirect_stdout

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.cli.table import cell_width, cut_middle, print_table, result_style

ARN = "arn:aws:eks:us-east-1:123456789012:cluster/gpu-prod-training-7"


def test_columns_are_aligned_and_absent_values_dashes(capsys: pytest.CaptureFixture[str]):
    assert print_table(("node", "driver_version"), [("n1", None), ("node-2", "580.1")]) == 2
    assert capsys.readouterr().out == "NODE    DRIVER_VERSION\nn1      -\nnode-2  580.1\n"


def test_without_rows_only_the_heading_is_printed(capsys: pytest.CaptureFixture[str]):
    assert print_table(("node",), []) == 0
    assert capsys.readouterr().out == "NODE\n"


@pytest.mark.parametrize(
    ("result", "style"), [("ok", "green"), ("ok (ready)", "green"), ("okay", "red"), ("failed", "red")]
)
def test_only_ok_is_green(result: str, style: str):
    assert result_style(result) == style


def test_the_widest_columns_are_cut_in_the_middle_until_lines_fit(capsys: pytest.CaptureFixture[str]):
    rows = [(ARN, "ip-10-0-0-1.ec2.internal", "1652922001234", "found"), ("b", "n", "1", "lost")]
    print_table(("cluster", "node", "serial", "state"), rows, width=60)
    assert capsys.readouterr().out == (
        "CLUSTER             NODE                SERIAL         STATE\n"
        "arn:aws:e…aining-7  ip-10-0-0…internal  1652922001234  found\n"
        "b                   n                   1              lost\n"
    )


@pytest.mark.parametrize("id_", ["1657575353682", "S/N: 1657575353682", "GPU-5c1fe5e8-3b1f-4a9b-9d3e-0d7c2f7f3a11"])
def test_identifiers_are_never_cut(capsys: pytest.CaptureFixture[str], id_: str) -> None:
    note = "serial and chassis are those that were reported last; virtual no → yes"
    row = (id_, "not_found", ARN, "ip-10-0-0-1.ec2.internal", "1657575353682", "20m", "5m", note)
    print_table(("id", "state", "cluster", "node", "serial", "since", "until", "note"), [row], width=80)
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith(f"{id_}  not_found  ")
    assert "  1657575353682  " in line
    assert len(line) <= 80 or len(id_) == 40, "the others give way"


def test_no_headers_leaves_only_rows(capsys: pytest.CaptureFixture[str]):
    assert print_table(("node",), [("n1",)], headers=False) == 1
    assert capsys.readouterr().out == "n1\n"
    assert print_table(("node",), [], headers=False) == 0
    assert capsys.readouterr().out == ""


def test_wide_characters_take_two_cells(capsys: pytest.CaptureFixture[str]):
    print_table(("cluster", "node"), [("クラスタ", "n1"), ("abc", "n2")])
    assert capsys.readouterr().out == "CLUSTER   NODE\nクラスタ  n1\nabc       n2\n"


@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=60), st.integers(0, 40))
def test_a_cut_text_fits_and_keeps_both_ends(text: str, width: int):
    cut = cut_middle(text, width)
    assert cell_width(cut) <= width or cut == text
    if cut != text and width > 1:
        head, tail = cut.split("…", 1) if "…" not in text else ("", "")
        assert text.startswith(head)
        assert text.endswith(tail)


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["C", "Z"]), max_size=90)] * 4), min_size=1, max_size=4
    )
)
def test_every_line_fits(rows: list[tuple[str, ...]]):
    with redirect_stdout(io.StringIO()) as out:
        print_table(("cluster", "node", "serial", "state"), rows, width=80)
    assert all(cell_width(line) <= 80 for line in out.getvalue().split("\n"))
