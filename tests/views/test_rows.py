"""The rows that the API, CSV files and the command line share."""

import csv
import io

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.health import Health
from collector.marks import Mark, MarkKind, Marks
from collector.model import Gpu, Place, Placement
from collector.views import columns as types
from collector.views.columns import GpuRow, Shown, columns, flat_columns, row_object
from collector.views.csv_files import csv_header, csv_lines, values_of
from collector.views.rows import gpu_row, numbered
from tests.web.conftest import Site

KINDS = [
    types.ClusterRow,
    types.NodeRow,
    types.GpuRow,
    types.PlacementRow,
    types.ChangeRow,
    types.ProblemRow,
    types.MarkRow,
]


def test_a_gpu_that_is_on_no_known_node_has_a_row() -> None:
    site = Site()
    absent = Placement(gpu=Gpu(uuid="GPU-a1"), place=Place("prod-a", "n2"), since=1.0, confirmed=2.0)
    row = gpu_row(site.collector, absent)
    assert (row.uuid, row.machine, row.confirmed_at) == ("GPU-a1", "", "1970-01-01T00:00:02.000Z")


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_is_described_and_known_to_the_schema(kind: type[msgspec.Struct]) -> None:
    _, schemas = msgspec.json.schema_components([kind])
    schema = schemas[kind.__name__]
    assert [column.name for column in columns(kind)] == list(schema["properties"])
    assert all(schema["properties"][column.name]["description"] == column.description for column in columns(kind))
    assert all(column.description.endswith(".") for column in columns(kind))
    assert any(column.shown is Shown.TABLE for column in columns(kind))


def test_a_csv_file_has_a_column_for_each_field_of_an_object() -> None:
    site = Site()
    worn = Health(remapped_rows_correctable=2, row_remap_failure=True, row_remap_pending=True)
    site.read("prod-a", "n1", Gpu(uuid="GPU-a1", serial="=1+1", module="9", health=worn))
    mark = Mark(uuid="GPU-a1", kind=MarkKind.RMA, set_at=1764000000.0, set_by="ann", note="@home", ticket="T-1")
    site.collector.marks = Marks([mark])
    (placement,) = site.inventory.find(uuid="GPU-a1")
    chosen = flat_columns(GpuRow)
    text = csv_header(chosen) + csv_lines([row_object(gpu_row(site.collector, placement))], chosen)
    (row,) = csv.DictReader(io.StringIO(text))
    told = {name: row[name] for name in ("serial", "module", "mark.kind", "mark.note", "mark.ticket", "virtual")}
    assert told == {
        "serial": "'=1+1",
        "module": "9",
        "mark.kind": "rma",
        "mark.note": "'@home",
        "mark.ticket": "T-1",
        "virtual": "false",
    }
    names = ("degraded", "health.remapped_rows_correctable", "health.row_remap_failure", "health.inforom")
    assert [row[name] for name in names] == ["row_remap_failure,row_remap_pending", "2", "true", ""]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(rows=st.lists(st.dictionaries(st.sampled_from([one.name for one in columns(GpuRow)]), anything, max_size=6)))
def test_any_rows_are_a_csv_file_without_formulas(rows: list[dict[str, object]]) -> None:
    chosen = flat_columns(GpuRow)
    lines = list(csv.reader(io.StringIO(csv_header(chosen) + csv_lines(rows, chosen))))
    assert [len(line) for line in lines] == [len(chosen)] * (len(rows) + 1)
    for row, line in zip(rows, lines[1:], strict=True):
        for value, cell in zip(values_of(row, chosen), line, strict=True):
            assert cell.isprintable()
            assert isinstance(value, int | float) or not cell.lstrip(" ").startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize(
    ("text", "expected"), [(None, None), ("9", 9), ("07", 7), ("A1", "A1"), ("", ""), ("٣", "٣"), ("9" * 20, "9" * 20)]
)
def test_numbers_stay_numbers(text: str | None, expected: object) -> None:
    assert numbered(text) == expected
