import csv
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.model import FieldChange, SinkRecord, changes_object
from collector.sinks import RejectedError, SinkError, formats
from collector.text import csv_text

MakeRecord = Callable[..., SinkRecord]

texts = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=20)
records = st.lists(st.builds(SinkRecord, **dict.fromkeys(formats.COLUMNS, texts)), max_size=5)


def test_the_first_seven_columns_are_those_of_the_go_program() -> None:
    assert formats.GO_GPUID_COLUMNS == ("cluster", "node", "machine", "source", "chassis", "gpu", "time")
    assert (*formats.GO_GPUID_COLUMNS, "uuid", "model", "event") == formats.COLUMNS


def test_csv_reads_like_the_go_programs(record: MakeRecord) -> None:
    assert formats.csv([record(), record(1, chassis="")], columns=formats.GO_GPUID_COLUMNS) == (
        b"prod,gpu-node-01,i-0abc,gpu-operator/nvidia-device-plugin-abc12,1821325191344,1761025346025,"
        b"2026-06-07T10:30:45Z\n"
        b"prod,gpu-node-01,i-0abc,gpu-operator/nvidia-device-plugin-abc12,,1761025346026,2026-06-07T10:30:45Z\n"
    )


def test_csv_quotes_where_needed_and_may_have_a_header(record: MakeRecord) -> None:
    odd = record(cluster='a,"b"', node="two\nlines", machine="é", model=" spaced", uuid="\r")
    lines = formats.csv([odd], header=True).decode()
    assert lines == (
        "cluster,node,machine,source,chassis,gpu,time,uuid,model,event\n"
        '"a,""b""",two lines,é,gpu-operator/nvidia-device-plugin-abc12,1821325191344,1761025346025,'
        '2026-06-07T10:30:45Z,," spaced",appeared\n'
    )


@given(records)
def test_csv_is_read_back_as_printable_text(batch: list[SinkRecord]) -> None:
    text = formats.csv(batch, header=True).decode()
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert read == [{name: csv_text(getattr(one, name)) for name in formats.COLUMNS} for one in batch]
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "\u200b=1"])
def test_csv_contains_no_formula(formula: str, record: MakeRecord) -> None:
    text = formats.csv([record(model=formula)], columns=["model"]).decode()
    (cell,) = next(csv.reader(io.StringIO(text)))
    assert cell.startswith("'")
    assert cell.lstrip("' ")[0] in "=+-@\uff1d"


@pytest.mark.parametrize("form", [formats.json_array, formats.json_lines])
def test_json_escapes_unprintable_characters(form: Callable[[list[SinkRecord]], bytes], record: MakeRecord) -> None:
    body = form([record(model="\x1b[31m\x7f\x9b\u2028\u202e\N{TAG SPACE}é")]).decode()
    assert body.replace("\n", "").isprintable()
    assert "é" in body
    (read,) = msgspec.json.decode(f"[{body}]" if form is formats.json_lines else body)
    assert read["model"] == "\x1b[31m\x7f\x9b\u2028\u202e\N{TAG SPACE}é"


@given(records)
def test_json_lines_are_read_back_unchanged(batch: list[SinkRecord]) -> None:
    lines = formats.json_lines(batch).split(b"\n")
    assert lines.pop() == b""
    assert [SinkRecord(**json.loads(line)) for line in lines] == batch
    assert msgspec.json.decode(formats.json_array(batch), type=list[SinkRecord]) == batch


def test_parquet_has_text_columns_and_a_time(record: MakeRecord) -> None:
    changes = {"mig": {"before": False, "after": True}}
    table = pyarrow.parquet.read_table(io.BytesIO(formats.parquet([record(), record(1, model="é\n", changes=changes)])))
    assert table.column_names == [*formats.COLUMNS, "changes", "last_known", "mark"]
    assert table.column("changes").to_pylist() == [None, '{"mig":{"before":false,"after":true}}']
    assert str(table.schema.field("time").type) == "timestamp[us, tz=UTC]"
    assert table.column("model").to_pylist() == ["NVIDIA GB200", "é\n"]
    assert table.column("time").to_pylist()[0].isoformat() == "2026-06-07T10:30:45+00:00"


def test_old_and_new_parquet_files_are_read_together(record: MakeRecord, tmp_path: Path) -> None:
    with (tmp_path / "a.parquet").open("wb") as body, formats.ParquetFile(body, columns=formats.COLUMNS) as file:
        file.write([record()])
    (tmp_path / "b.parquet").write_bytes(formats.parquet([record(1, last_known={"serial": "2026-06-07T10:30:45Z"})]))
    for first in ("a", "b"):
        schema = pyarrow.parquet.read_schema(tmp_path / f"{first}.parquet")
        table = pyarrow.dataset.dataset(tmp_path, schema=schema).to_table()
        assert table.column("gpu").to_pylist() == ["1761025346025", "1761025346026"]
    assert table.column("last_known").to_pylist() == [None, '{"serial":"2026-06-07T10:30:45Z"}']


def test_csv_keeps_the_columns_of_earlier_versions(record: MakeRecord) -> None:
    altered = record(changes={"serial": {"before": "1", "after": None}}, last_known={"serial": "2026-06-07T10:30:45Z"})
    assert formats.csv([altered], header=True) == formats.csv([record()], header=True)


def test_a_change_of_health_is_a_record_in_every_format(record: MakeRecord) -> None:
    changes = changes_object(
        (
            FieldChange("lost", False, True),
            FieldChange("ecc_dram_correctable", 7, 2),
            FieldChange("recovery_action", None, "Reset"),
        )
    )
    batch = [record(event="health", changes=changes), record(1)]
    written = {
        "lost": {"before": False, "after": True},
        "ecc_dram_correctable": {"before": 7, "after": 2, "went_back": True},
        "recovery_action": {"before": None, "after": "Reset"},
    }
    assert msgspec.json.decode(formats.json_array(batch))[0]["changes"] == written
    assert json.loads(formats.json_lines(batch).split(b"\n")[0])["changes"] == written
    assert [row["event"] for row in csv.DictReader(io.StringIO(formats.csv(batch, header=True).decode()))] == [
        "health",
        "appeared",
    ]
    table = pyarrow.parquet.read_table(io.BytesIO(formats.parquet(batch)))
    assert table.column("event").to_pylist() == ["health", "appeared"]
    assert [one and json.loads(one) for one in table.column("changes").to_pylist()] == [written, None]


def test_parquet_without_pyarrow_says_what_to_install(record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SinkError, match=r"pip install 'gpuid-collector\[parquet\]'"):
        formats.parquet([record()])


def test_equal_bodies_compress_to_equal_bytes() -> None:
    assert formats.gzip(b"serial") == formats.gzip(b"serial")
    assert gzip.decompress(formats.gzip(b"serial")) == b"serial"


@pytest.mark.parametrize(
    ("time", "utc"),
    [
        ("2026-06-07T10:30:45Z", "2026-06-07T10:30:45+00:00"),
        ("2026-06-07T10:30:45.5Z", "2026-06-07T10:30:45.500000+00:00"),
        ("2026-06-07T10:30:45.123456789+02:00", "2026-06-07T08:30:45.123456+00:00"),
    ],
)
def test_times_become_utc(time: str, utc: str) -> None:
    assert formats.parse_time(time).isoformat() == utc


@pytest.mark.parametrize(
    "time", ["", "yesterday", "2026-06-07T10:30:45", "2026-13-07T10:30:45Z", "2026-06-07é10:30:45Z"]
)
def test_an_invalid_time_is_refused(time: str) -> None:
    with pytest.raises(RejectedError, match="expected an RFC 3339 time"):
        formats.parse_time(time)
