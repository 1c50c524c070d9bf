"""`gpuid export`, from a store and from a collector."""

import csv
import io
import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from collector import config as configuration
from collector.cli import gpuid
from collector.health import Health
from collector.marks import Mark, MarkKind
from collector.views.columns import GpuRow, columns, flat_columns
from tests.support.http import served

COLUMNS = [column.name for column in flat_columns(GpuRow)]
HEALTH_COLUMNS = [name for name in COLUMNS if name.startswith("health.")]
SHORT = ("cluster", "node", "machine", "source", "chassis", "serial", "uuid", "model", "since", "confirmed_at")
FROM_COLLECTOR = [
    f"{cluster},{node},i-{node},gpu-operator/p,{chassis},{serial},GPU-{uuid},{model},"
    "2025-11-24T16:00:00.000Z,2025-11-24T16:00:00.000Z"
    for cluster, node, chassis, serial, uuid, model in (
        ("prod-a", "n1", "", "100", "a1", "NVIDIA H100"),
        ("prod-a", "n2", "", "102", "a2", "NVIDIA H100"),
        ("prod-a", "n2", "", "103", "a3", "NVIDIA H100"),
        ("prod-b", "n3", "C1", "900", "b1", "NVIDIA GB200"),
        ("prod-b", "n3", "C1", "900", "b2", "NVIDIA GB200"),
    )
]

Serving = Callable[..., AbstractContextManager[str]]


def export(*args: str | Path, **options: Any) -> Result:
    return CliRunner().invoke(gpuid, ["export", *map(str, args)], **options)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_from_the_store_has_a_row_per_gpu(history_config: Path):
    result = export("-o", "csv", "--config", history_config)
    assert (result.exit_code, result.stderr) == (0, "")
    (row,) = read(result.stdout)
    assert list(row) == COLUMNS
    since = row["since"]
    assert since.endswith("Z")
    expected = f"prod,n2,,gpu-operator/p,C1,100,GPU-a1,NVIDIA H100,{since},{since}"
    assert ",".join(row[name] for name in SHORT) == expected


def test_a_collector_gives_the_same_rows(serving: Serving):
    with serving() as url:
        result = export("-o", "csv", "--url", url)
        listed = CliRunner().invoke(gpuid, ["ls", "-o", "csv", "--url", url])
    assert result.exit_code == 0
    rows = read(result.stdout)
    assert (list(rows[0]), [",".join(row[name] for name in SHORT) for row in rows]) == (COLUMNS, FROM_COLLECTOR)
    assert result.stdout == listed.stdout


def test_every_format_has_the_same_content(serving: Serving, tmp_path: Path):
    with serving() as url:
        found = {form: tmp_path / f"gpus.{form}" for form in ("csv", "jsonl", "parquet")}
        for form, path in found.items():
            result = export("-o", form, "-f", path, "--url", url)
            assert (result.exit_code, result.stdout) == (0, "")
            assert result.stderr == f"5 GPUs written to {path}\n"
    rows = read(found["csv"].read_text())
    lines = [json.loads(line) for line in found["jsonl"].read_text().splitlines()]
    assert [[line[name] or "" for name in SHORT] for line in lines] == [[row[name] for name in SHORT] for row in rows]
    assert list(lines[0]) == [column.name for column in columns(GpuRow)]
    table = pyarrow.parquet.read_table(found["parquet"])
    assert table.column_names == COLUMNS
    assert table.column("uuid").to_pylist() == [row["uuid"] for row in rows]
    assert table.column("since").to_pylist()[0].isoformat() == "2025-11-24T16:00:00+00:00"
    assert sorted(path.name for path in tmp_path.glob("gpus.*")) == ["gpus.csv", "gpus.jsonl", "gpus.parquet"]


WORN = Health(remapped_rows_uncorrectable=2, row_remap_failure=True, row_remap_pending=True, recovery_action="None")
FINE = Health(remapped_rows_uncorrectable=0, row_remap_failure=False)
MARKS = [Mark(uuid="GPU-a1", kind=MarkKind.RMA, set_at=1764000000.0, set_by="ann", ticket="https://t/1")]


def test_condition_mark_and_health_each_have_a_typed_column(
    serving: Serving, alter: Callable[..., None], tmp_path: Path
) -> None:
    alter("prod-a", lambda gpu: replace(gpu, vbios="1", health=WORN if gpu.uuid == "GPU-a1" else FINE))
    with serving(marks=MARKS) as url:
        for form in ("csv", "jsonl", "parquet"):
            export("-o", form, "-f", tmp_path / form, "--url", url)
    worn, fine, *_, unknown = map(json.loads, (tmp_path / "jsonl").read_text().splitlines())
    assert worn["degraded"] == ["row_remap_failure", "row_remap_pending"]
    assert (worn["level"], worn["mark"]["kind"], worn["mark"]["ticket"]) == ("replace", "rma", "https://t/1")
    assert [row["health"] for row in (worn, fine, unknown)] == [
        {
            "remapped_rows_uncorrectable": 2,
            "row_remap_failure": True,
            "row_remap_pending": True,
            "recovery_action": "None",
        },
        {"remapped_rows_uncorrectable": 0, "row_remap_failure": False},
        None,
    ]
    fields = ("remapped_rows_uncorrectable", "row_remap_failure", "row_remap_pending", "recovery_action")
    names = [f"health.{field}" for field in fields]
    csv_lines = (tmp_path / "csv").read_text().splitlines()
    cells = [[row[name] for name in ("degraded", *names)] for row in csv.DictReader(csv_lines)]
    assert (cells[0], cells[1], cells[-1]) == (
        ["row_remap_failure,row_remap_pending", "2", "true", "true", "None"],
        ["", "0", "false", "", ""],
        [""] * 5,
    )
    assert csv.DictReader(csv_lines).__next__()["mark.ticket"] == "https://t/1"
    table = pyarrow.parquet.read_table(tmp_path / "parquet")
    assert [str(table.schema.field(name).type) for name in ("degraded", *names)] == [
        *("string", "int64", "bool", "bool", "string")
    ]
    assert table.column("health.remapped_rows_uncorrectable").to_pylist() == [2, 0, 0, None, None]


HOSTILE: dict[str, Any] = {
    "remapped_rows_uncorrectable": 2**70,
    "remapped_rows_correctable": True,
    "row_remap_failure": 1,
    "row_remap_pending": [],
    "recovery_action": {},
    "fabric_state": "Completed",
    "odd": 1,
}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_absent_health_is_omitted(form: str, tmp_path: Path) -> None:
    gpu = {"cluster": "c", "node": "n", "uuid": "GPU-1", "serial": "1", "confirmed_at": TIME, "since": TIME}
    body = {"next": None, "total": 1, "gpus": [gpu | {"health": HOSTILE}], "clusters": [CLUSTER]}
    with served(lambda _headers, _body: (200, json.dumps(body).encode()), "application/json") as address:
        result = export("-o", form, "-f", tmp_path / form, "--url", f"http://{address}")
    assert (result.exit_code, result.stderr) == (0, f"1 GPU written to {tmp_path / form}\n")
    if form == "parquet":
        table = pyarrow.parquet.read_table(tmp_path / form)
        kept = {name: table.column(name).to_pylist()[0] for name in HEALTH_COLUMNS}
        assert {name: value for name, value in kept.items() if value is not None} == {
            "health.fabric_state": "Completed",
            "health.recovery_action": "{}",
        }


TIME = "2026-01-01T00:00:00.000Z"
CLUSTER = {"cluster": "c", "up": True, "nodes": 1, "nodes_read": 1, "gpus": 1}


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_a_fleet_without_gpus_gives_an_empty_file(file_format: str, inventory: Any, serving: Serving, tmp_path: Path):
    for cluster in ("prod-a", "prod-b"):
        inventory.remove_cluster(cluster, 1764000001.0)
    with serving() as url:
        assert export("-o", file_format, "-f", tmp_path / "out", "--url", url).stderr.startswith("0 GPUs written to ")
    if file_format == "parquet":
        assert pyarrow.parquet.read_table(tmp_path / "out").num_rows == 0
    else:
        assert (tmp_path / "out").read_text() == (",".join(COLUMNS) + "\n" if file_format == "csv" else "")


def test_parquet_without_pyarrow_says_what_to_install(
    history_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = export("-o", "parquet", "-f", tmp_path / "out", "--config", history_config)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "gpuid: parquet needs pyarrow: pip install 'gpuid-collector[parquet]'\n"
    assert list(tmp_path.glob("out*")) == []


def test_a_failure_keeps_the_old_file(tmp_path: Path):
    old = tmp_path / "gpus.csv"
    old.write_text("old")
    result = export("-o", "csv", "-f", old, "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert old.read_text() == "old"
    assert list(tmp_path.glob("gpus*")) == [old]


def test_a_file_that_cannot_be_written_is_one_line(history_config: Path, tmp_path: Path):
    result = export("-o", "csv", "-f", tmp_path / "no" / "gpus.csv", "--config", history_config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"gpuid: -f {tmp_path}/no/gpus.csv: no such file or directory\n"


def test_it_can_be_as_of_a_time(serving: Serving, history_config: Path) -> None:
    store = configuration.load(history_config).store
    here = export("-o", "csv", "--at", "10m", "--config", history_config)
    with serving(store=store) as url:
        there = export("-o", "csv", "--at", "10m", "--url", url)
    for result in (here, there):
        assert (result.exit_code, result.stderr) == (0, "")
        (row,) = read(result.stdout)
        assert (row["node"], row["serial"], row["vbios"]) == ("n1", "100", "")
    early = export("--at", "2d", "--config", history_config)
    assert (early.exit_code, early.stdout, early.stderr.count("\n")) == (2, "", 1)
    assert "the history begins at" in early.stderr
