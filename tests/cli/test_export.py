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

from collector.cli import gpuid
from collector.health import HEALTH_FIELDS, Health
from collector.marks import Mark, MarkKind
from tests.support.http import served

CONDITION = ("degraded", "level", "mark", "ticket")
COLUMNS = ",".join(
    (
        "cluster,node,machine,source,chassis,gpu,time,uuid,model,event,since,confirmed,last_known",
        *CONDITION,
        *HEALTH_FIELDS,
    )
)
NOTHING = "," * (len(CONDITION) + len(HEALTH_FIELDS))
FROM_STORE = "prod,n2,,gpu-operator/p,C1,100,{time},GPU-a1,NVIDIA H100,confirmed,{since},{since}," + NOTHING
FROM_COLLECTOR = [
    "prod-a,n1,i-n1,gpu-operator/p,,100,2025-11-24T16:00:00Z,GPU-a1,NVIDIA H100,confirmed,"
    "2025-11-24T16:00:00.000Z,2025-11-24T16:00:00.000Z,",
    "prod-a,n2,i-n2,gpu-operator/p,,102,2025-11-24T16:00:00Z,GPU-a2,NVIDIA H100,confirmed,"
    "2025-11-24T16:00:00.000Z,2025-11-24T16:00:00.000Z,",
    "prod-a,n2,i-n2,gpu-operator/p,,103,2025-11-24T16:00:00Z,GPU-a3,NVIDIA H100,confirmed,"
    "2025-11-24T16:00:00.000Z,2025-11-24T16:00:00.000Z,",
    "prod-b,n3,i-n3,gpu-operator/p,C1,900,2025-11-24T16:00:00Z,GPU-b1,NVIDIA GB200,confirmed,"
    "2025-11-24T16:00:00.000Z,2025-11-24T16:00:00.000Z,",
    "prod-b,n3,i-n3,gpu-operator/p,C1,900,2025-11-24T16:00:00Z,GPU-b2,NVIDIA GB200,confirmed,"
    "2025-11-24T16:00:00.000Z,2025-11-24T16:00:00.000Z,",
]

Serving = Callable[..., AbstractContextManager[str]]


def export(*args: str | Path, **options: Any) -> Result:
    return CliRunner().invoke(gpuid, ["export", *map(str, args)], **options)


def test_csv_from_the_store_has_a_row_per_gpu(history_config: Path):
    result = export("--format", "csv", "--config", history_config)
    assert (result.exit_code, result.stderr) == (0, "")
    heading, row = result.stdout.splitlines()
    since = row.split(",")[11]
    assert since.endswith("Z")
    assert (heading, row) == (COLUMNS, FROM_STORE.format(time=since[:19] + "Z", since=since))


def test_a_collector_gives_the_same_rows(serving: Serving):
    with serving() as url:
        result = export("--format", "csv", "--url", url)
    assert (result.exit_code, result.stdout.splitlines()) == (
        0,
        [COLUMNS, *(row + NOTHING for row in FROM_COLLECTOR)],
    )


def test_every_format_has_the_same_content(serving: Serving, tmp_path: Path):
    with serving() as url:
        found = {form: tmp_path / f"gpus.{form}" for form in ("csv", "jsonl", "parquet")}
        for form, path in found.items():
            result = export("--format", form, "-o", path, "--url", url)
            assert (result.exit_code, result.stdout) == (0, "")
            assert result.stderr == f"5 GPUs written to {path}\n"
    rows = list(csv.DictReader(io.StringIO(found["csv"].read_text())))
    lines = [json.loads(line) for line in found["jsonl"].read_text().splitlines()]
    assert [{name: value or "" for name, value in line.items()} for line in lines] == rows
    assert {line["last_known"] for line in lines} == {None}
    table = pyarrow.parquet.read_table(found["parquet"])
    assert table.column_names == COLUMNS.split(",")
    assert table.column("uuid").to_pylist() == [row["uuid"] for row in rows]
    assert table.column("since").to_pylist()[0].isoformat() == "2025-11-24T16:00:00+00:00"
    assert sorted(path.name for path in tmp_path.glob("gpus.*")) == ["gpus.csv", "gpus.jsonl", "gpus.parquet"]


WORN = Health(remapped_rows_uncorrectable=2, row_remap_failure=True, row_remap_pending=True, recovery_action="None")
FINE = Health(remapped_rows_uncorrectable=0, row_remap_failure=False)
MARKS = [Mark(uuid="GPU-a1", kind=MarkKind.RMA, set_at=1764000000.0, set_by="ann", ticket="https://t/1")]


def test_condition_mark_and_health_have_a_typed_column_each(
    serving: Serving, alter: Callable[..., None], tmp_path: Path
) -> None:
    alter("prod-a", lambda gpu: replace(gpu, vbios="1", health=WORN if gpu.uuid == "GPU-a1" else FINE))
    with serving(marks=MARKS) as url:
        for form in ("csv", "jsonl", "parquet"):
            export("--format", form, "-o", tmp_path / form, "--url", url)
    worn, fine, *_, unknown = map(json.loads, (tmp_path / "jsonl").read_text().splitlines())
    assert worn["degraded"] == ["row_remap_failure", "row_remap_pending"]
    assert [worn[name] for name in CONDITION[1:]] == ["replace", "rma", "https://t/1"]
    names = ("remapped_rows_uncorrectable", "row_remap_failure", "row_remap_pending", "recovery_action")
    assert [[row[name] for name in names] for row in (worn, fine, unknown)] == [
        [2, True, True, "None"],
        [0, False, None, None],
        [None, None, None, None],
    ]
    csv_lines = (tmp_path / "csv").read_text().splitlines()
    cells = [[row[name] for name in ("degraded", *names)] for row in csv.DictReader(csv_lines)]
    assert (cells[0], cells[1], cells[-1]) == (
        ["row_remap_failure,row_remap_pending", "2", "true", "true", "None"],
        ["", "0", "false", "", ""],
        [""] * 5,
    )
    table = pyarrow.parquet.read_table(tmp_path / "parquet")
    assert [str(table.schema.field(name).type) for name in ("degraded", *names)] == [
        *("string", "int64", "bool", "bool", "string")
    ]
    assert table.column("remapped_rows_uncorrectable").to_pylist() == [2, 0, 0, None, None]


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
def test_health_that_is_none_is_left_out(form: str, tmp_path: Path) -> None:
    gpu = {"cluster": "c", "node": "n", "uuid": "GPU-1", "serial": "1", "confirmed": TIME, "since": TIME}
    body = {"total": 1, "gpus": [gpu | {"health": HOSTILE}], "clusters": [CLUSTER]}
    with served(lambda _headers, _body: (200, json.dumps(body).encode()), "application/json") as address:
        result = export("--format", form, "-o", tmp_path / form, "--url", f"http://{address}")
    assert (result.exit_code, result.stderr) == (0, f"1 GPU written to {tmp_path / form}\n")
    if form == "jsonl":
        row = json.loads((tmp_path / form).read_text())
        assert {name: row[name] for name in HEALTH_FIELDS if row[name] is not None} == {"fabric_state": "Completed"}


TIME = "2026-01-01T00:00:00.000Z"
CLUSTER = {"cluster": "c", "up": True, "nodes": 1, "nodes_read": 1, "gpus": 1}


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_a_fleet_without_gpus_is_an_empty_file(file_format: str, inventory: Any, serving: Serving, tmp_path: Path):
    for cluster in ("prod-a", "prod-b"):
        inventory.remove_cluster(cluster, 1764000001.0)
    with serving() as url:
        assert export("--format", file_format, "-o", tmp_path / "out", "--url", url).stderr.startswith(
            "0 GPUs written to "
        )
    if file_format == "parquet":
        assert pyarrow.parquet.read_table(tmp_path / "out").num_rows == 0
    else:
        assert (tmp_path / "out").read_text() == (COLUMNS + "\n" if file_format == "csv" else "")


def test_parquet_without_pyarrow_says_what_to_install(
    history_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = export("--format", "parquet", "-o", tmp_path / "out", "--config", history_config)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "gpuid: parquet needs pyarrow: pip install 'gpuid-collector[parquet]'\n"
    assert list(tmp_path.glob("out*")) == []


def test_a_failure_keeps_the_old_file(tmp_path: Path):
    old = tmp_path / "gpus.csv"
    old.write_text("old")
    result = export("--format", "csv", "-o", old, "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert old.read_text() == "old"
    assert list(tmp_path.glob("gpus*")) == [old]


def test_a_file_that_cannot_be_written_is_one_line(history_config: Path, tmp_path: Path):
    result = export("--format", "csv", "-o", tmp_path / "no" / "gpus.csv", "--config", history_config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"gpuid: -o {tmp_path}/no/gpus.csv: no such file or directory\n"
