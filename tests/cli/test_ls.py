"""`gpuid ls`."""

import csv
import io
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bcrypt
import msgspec
import pytest
from click.testing import CliRunner, Result

from collector import config as configuration
from collector.cli import gpuid
from collector.health import Health
from collector.marks import Mark, MarkKind
from collector.views.columns import GpuRow, columns, flat_columns
from tests.support.terminal import Terminal

Serving = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def url(serving: Serving) -> Iterator[str]:
    """A collector without authentication."""
    with serving() as url:
        yield url


def ls(*args: str | Path, **options: Any) -> Result:
    return CliRunner().invoke(gpuid, ["ls", *map(str, args)], **options)


def uuids(result: Result) -> list[str]:
    assert (result.exit_code, result.stderr) == (0, "")
    return [gpu["uuid"] for gpu in json.loads(result.stdout)]


class TestTable:
    def test_every_gpu_is_one_line(self, url: str):
        result = ls("--url", url)
        assert result.exit_code == 0
        assert result.stdout == (
            "CLUSTER  NODE  SERIAL  MODEL         STATE\n"
            "prod-a   n1    100     NVIDIA H100   found\n"
            "prod-a   n2    102     NVIDIA H100   found\n"
            "prod-a   n2    103     NVIDIA H100   found\n"
            "prod-b   n3    900     NVIDIA GB200  found\n"
            "prod-b   n3    900     NVIDIA GB200  found\n"
        )

    def test_wide_has_more_columns(self, url: str):
        lines = ls("--url", url, "--node", "n1", "-o", "wide").stdout.splitlines()
        assert lines[0].split() == [
            *("CLUSTER", "NODE", "SERIAL", "MODEL", "STATE", "MACHINE", "UUID", "CHASSIS", "SLOT", "TRAY", "HOST"),
            *("MODULE", "PCI_BUS_ID", "LAST_KNOWN", "SINCE", "CONFIRMED_AT", "CLAIM", "DEGRADED", "LEVEL", "MARK"),
        ]
        assert "i-n1" in lines[1]
        assert lines[1].split()[-6:] == [*["2025-11-24T16:00:00.000Z"] * 2, "no", "-", "-", "-"]

    def test_a_terminal_gets_a_bold_heading(self, url: str):
        with Terminal("ls", "--url", url) as terminal:
            assert terminal.end() == 0
            assert terminal.text.startswith("\x1b[1mCLUSTER")

    def test_no_color_is_respected(self, url: str):
        with Terminal("ls", "--url", url, env={"NO_COLOR": "1"}) as terminal:
            assert terminal.end() == 0
            assert "\x1b" not in terminal.text
            assert terminal.text.splitlines()[1].split() == ["prod-a", "n1", "100", "NVIDIA", "H100", "found"]

    def test_a_narrow_terminal_gets_cut_columns_and_whole_serials(self, url: str):
        with Terminal("ls", "--url", url, columns=40, env={"NO_COLOR": "1"}) as terminal:
            assert terminal.end() == 0
            line = terminal.text.splitlines()[1]
            assert line.split() == ["prod-a", "n1", "100", "NVIDI…H100", "found"]

    def test_nothing_found_is_a_note_and_exit_1(self, url: str):
        result = ls("--url", url, "nowhere")
        hint = "No GPUs found; `gpuid where nowhere` also searches parts of ids and the history.\n"
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", hint)

    def test_an_unknown_cluster_is_exit_2(self, url: str):
        result = ls("--url", url, "--cluster", "prod-c")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == 'gpuid: no cluster "prod-c"; did you mean "prod-b"?\n'

    def test_a_resource_kind_suggests_its_command(self, url: str):
        assert ls("--url", url, "nodes").stderr == "No GPUs found; `gpuid nodes` lists nodes.\n"

    def test_it_is_sorted_and_limited(self, url: str):
        result = ls("--url", url, "--sort", "-serial", "--limit", "2", "--no-headers")
        assert [line.split()[2] for line in result.stdout.splitlines()] == ["900", "900"]


class TestFilters:
    @pytest.mark.parametrize(
        ("args", "expected"),
        [
            ([], ["GPU-a1", "GPU-a2", "GPU-a3", "GPU-b1", "GPU-b2"]),
            (["--cluster", "prod-a"], ["GPU-a1", "GPU-a2", "GPU-a3"]),
            (["--node", "n2"], ["GPU-a2", "GPU-a3"]),
            (["--machine", "i-n3"], ["GPU-b1", "GPU-b2"]),
            (["--serial", "900"], ["GPU-b1", "GPU-b2"]),
            (["--uuid", "gpu-A1"], ["GPU-a1"]),
            (["--model", "NVIDIA GB200"], ["GPU-b1", "GPU-b2"]),
            (["--chassis", "C1", "--cluster", "prod-b"], ["GPU-b1", "GPU-b2"]),
            (["--node", "n1", "--node", "n3"], ["GPU-a1", "GPU-b1", "GPU-b2"]),
            (["n2"], ["GPU-a2", "GPU-a3"]),
            (["900"], ["GPU-b1", "GPU-b2"]),
            (["C1"], ["GPU-b1", "GPU-b2"]),
            (["gpu-b2"], ["GPU-b2"]),
            (["n2", "--uuid", "GPU-a3"], ["GPU-a3"]),
            (["699-PART"], ["GPU-b1", "GPU-b2"]),
            (["--board-part-number", "699-PART"], ["GPU-b1", "GPU-b2"]),
            (["--gpu-part-number", "2941-PART", "--node", "n3"], ["GPU-b1", "GPU-b2"]),
        ],
    )
    def test_filters_are_applied(self, url: str, args: list[str], expected: list[str]):
        assert uuids(ls("--url", url, "-o", "json", *args)) == expected

    def test_a_term_that_contradicts_a_filter_finds_nothing(self, url: str):
        result = ls("--url", url, "-o", "json", "100", "--serial", "102")
        assert (result.exit_code, result.stdout) == (1, "[]\n")


WEAR = {"102": Health(row_remap_pending=True), "103": Health(row_remap_failure=True, row_remap_pending=True)}
MARKS = [Mark(serial="103", kind=MarkKind.RMA, set_at=1764000000.0, set_by="ann", ticket="https://t/1")]


class TestConditions:
    @pytest.fixture
    def url(self, serving: Serving, alter: Callable[..., None]) -> Iterator[str]:
        """A collector with a GPU that needs a reset, and one that needs replacement and is marked."""
        alter("prod-a", lambda gpu: msgspec.structs.replace(gpu, vbios="1", health=WEAR.get(gpu.serial or "")))
        with serving(marks=MARKS) as url:
            yield url

    def test_degraded_gpus_are_listed_worst_first(self, url: str) -> None:
        result = ls("--url", url, "--degraded")
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout == (
            "CLUSTER  NODE  SERIAL  LEVEL    MARK  DEGRADED\n"
            "prod-a   n2    103     replace  rma   row_remap_failure,row_remap_pending\n"
            "prod-a   n2    102     reset    -     row_remap_pending\n"
        )

    @pytest.mark.parametrize(
        ("args", "expected"),
        [
            (["--degraded"], ["GPU-a3", "GPU-a2"]),
            (["--reason", "row_remap_pending"], ["GPU-a3", "GPU-a2"]),
            (["--reason", "lost", "--reason", "row_remap_failure"], ["GPU-a3"]),
            (["--level", "reset"], ["GPU-a2"]),
            (["--mark", "rma"], ["GPU-a3"]),
            (["--mark", "watch"], []),
            (["n2", "--level", "replace"], ["GPU-a3"]),
        ],
    )
    def test_filters_are_applied(self, url: str, args: list[str], expected: list[str]) -> None:
        assert [gpu["uuid"] for gpu in json.loads(ls("--url", url, "-o", "json", *args).stdout)] == expected

    def test_every_list_says_what_a_gpu_needs_and_how_it_is_marked(self, url: str) -> None:
        states = [line[36:] for line in ls("--url", url, "--cluster", "prod-a").stdout.splitlines()]
        assert states == [
            "STATE",
            "found",
            "found, needs a reset or drain",
            "found, needs replacement, marked rma",
        ]

    def test_csv_has_flat_cells(self, url: str) -> None:
        (row,) = csv.DictReader(io.StringIO(ls("--url", url, "103", "-o", "csv").stdout))
        assert [row[name] for name in ("degraded", "level", "mark.kind", "mark.ticket")] == [
            "row_remap_failure,row_remap_pending",
            "replace",
            "rma",
            "https://t/1",
        ]
        assert {name: value for name, value in row.items() if value and name.startswith("health.")} == {
            "health.row_remap_pending": "true",
            "health.row_remap_failure": "true",
        }

    def test_invalid_values_are_refused_with_the_valid_ones(self, url: str) -> None:
        result = ls("--url", url, "--mark", "hot")
        assert result.exit_code == 2
        assert "'hot' is not one of 'rma', 'quarantine', 'watch'" in result.stderr


class TestPrograms:
    def test_json_is_one_array_with_one_gpu_per_line(self, url: str):
        result = ls("--url", url, "-o", "json")
        assert len(result.stdout.splitlines()) == 7
        gpu = json.loads(result.stdout)[0]
        assert (gpu["cluster"], gpu["machine"], gpu["chassis"], gpu["since"]) == (
            *("prod-a", "i-n1", None),
            "2025-11-24T16:00:00.000Z",
        )

    def test_the_json_flag_is_the_same_format(self, url: str):
        assert ls("--url", url, "--json").stdout == ls("--url", url, "-o", "json").stdout

    def test_csv_leaves_absent_values_empty(self, url: str):
        rows = list(csv.DictReader(io.StringIO(ls("--url", url, "-o", "csv").stdout)))
        assert [row["uuid"] for row in rows] == ["GPU-a1", "GPU-a2", "GPU-a3", "GPU-b1", "GPU-b2"]
        assert (rows[0]["machine"], rows[0]["chassis"], rows[3]["chassis"]) == ("i-n1", "", "C1")

    def test_csv_writes_booleans_as_json_does(self, url: str, alter: Callable[..., None]):
        alter("prod-a", lambda gpu: msgspec.structs.replace(gpu, mig=gpu.uuid == "GPU-a1"))
        rows = csv.DictReader(io.StringIO(ls("--url", url, "-o", "csv").stdout))
        assert [row["mig"] for row in rows] == ["true", "false", "false", "", ""]

    def test_csv_has_every_field_of_the_api(self, url: str):
        gpu = json.loads(ls("--url", url, "-o", "json").stdout)[0]
        assert ls("--url", url, "-o", "csv").stdout.splitlines()[0].split(",") == [
            column.name for column in flat_columns(GpuRow)
        ]
        assert [column.name for column in columns(GpuRow)] == list(gpu)


class TestWhichCollector:
    def test_the_configuration_gives_address_and_token(
        self, serving: Serving, tmp_path: Path, certificate: tuple[Path, Path]
    ):
        (tmp_path / "token").write_text("secret\n")
        cert, key = certificate
        with serving(cert_file=cert, key_file=key, bearer_token_file=tmp_path / "token") as url:
            config = tmp_path / "gpuid.toml"
            config.write_text(
                f'[server]\nlisten = ":{urlsplit(url).port}"\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
                'bearer_token_file = "token"\n[[clusters]]\ncontext = "x"\n'
            )
            assert len(uuids(ls("-c", config, "-o", "json"))) == 5
            assert len(uuids(ls("--url", url, "--ca", cert, "--token-file", tmp_path / "token", "-o", "json"))) == 5

    def test_a_client_certificate_is_presented(self, serving: Serving, tmp_path: Path, certificate: tuple[Path, Path]):
        cert, key = certificate
        with serving(cert_file=cert, key_file=key, client_ca_file=cert) as url:
            config = tmp_path / "gpuid.toml"
            config.write_text(
                f'[server]\nlisten = ":{urlsplit(url).port}"\ntls_cert = "{cert}"\ntls_key = "{key}"\n'
                f'client_ca_file = "{cert}"\n[[clusters]]\ncontext = "x"\n'
            )
            assert len(uuids(ls("-c", config, "-o", "json"))) == 5
            assert len(uuids(ls("--url", url, "--ca", cert, "--cert", cert, "--key", key, "-o", "json"))) == 5
            assert CliRunner().invoke(gpuid, ["health", "-c", str(config)]).exit_code == 0
            refused = ls("--url", url, "--ca", cert)
            assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)

    def test_user_and_password_are_sent(self, serving: Serving):
        digest = bcrypt.hashpw(b"pass", bcrypt.gensalt(4)).decode()
        with serving(basic_auth={"ann": digest}) as url:
            args = ("--url", url, "--user", "ann", "-o", "json")
            assert len(uuids(ls(*args, env={"GPUID_PASSWORD": "pass"}))) == 5
            refused = ls(*args, env={"GPUID_PASSWORD": "wrong"})
            assert (refused.exit_code, refused.stdout) == (2, "")
            assert refused.stderr == (
                f"gpuid: {url}: responds with 401; use --token-file, or --user with $GPUID_PASSWORD\n"
            )
            missing = ls(*args, env={"GPUID_PASSWORD": None})
            assert missing.exit_code == 2
            assert "set the password in $GPUID_PASSWORD" in missing.stderr

    @pytest.mark.parametrize("output", ["table", "csv", "json"])
    def test_no_collector_is_one_line_and_exit_2(self, output: str):
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            result = ls("--url", url, "-o", output)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"gpuid: {url}: connection refused; is a collector running there?\n"

    def test_another_server_is_one_line_and_exit_2(self, url: str):
        result = ls("--url", f"{url}/elsewhere")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"gpuid: {url}/elsewhere: responds with 404 Not Found\n"

    @pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http://127.0.0.1:x"])
    def test_an_invalid_url_is_exit_2(self, url: str):
        result = ls("--url", url)
        assert result.exit_code == 2
        assert result.stderr == f'gpuid: --url: expected http://HOST:PORT or https://HOST:PORT, got "{url}"\n'

    @pytest.mark.parametrize("option", ["--token-file", "--ca", "--cert"])
    def test_an_absent_file_is_exit_2(self, url: str, option: str, tmp_path: Path):
        result = ls("--url", url, option, tmp_path / "absent")
        assert result.exit_code == 2
        assert result.stderr.startswith(f"gpuid: {option}: {tmp_path}/absent: ")


def test_values_cannot_inject_control_sequences(url: str, alter: Callable[..., None]):
    alter("prod-a", lambda gpu: msgspec.structs.replace(gpu, model="a\x1b[31m\nb\u202e"))
    assert "100     a[31m b " in ls("--url", url).stdout


def test_a_last_known_serial_is_found_and_marked(serving: Serving, alter: Callable[..., None]) -> None:
    alter("prod-b", lambda gpu: msgspec.structs.replace(gpu, serial=None, chassis=None))
    with serving() as url:
        table = ls("900", "--url", url).stdout.splitlines()
        assert len(table) == 3
        assert all("found, serial and chassis last known" in line for line in table[1:])
        for gpu in json.loads(ls("900", "--url", url, "-o", "json").stdout):
            times = dict.fromkeys(("serial", "chassis"), "2025-11-24T16:00:00.000Z")
            assert (gpu["serial"], gpu["last_known"]) == ("900", times)
        rows = [*csv.DictReader(io.StringIO(ls("900", "--url", url, "-o", "csv").stdout))]
        assert [json.loads(row["last_known"]) for row in rows] == [times, times]
        wide = ls("900", "--url", url, "-o", "wide").stdout
        assert "serial 2025-11-24T16:00:00.000Z, chassis 2025-11-24T16:00:00.000Z" in wide


def test_it_can_be_as_of_a_time(serving: Serving, history_config: Path) -> None:
    store = configuration.load(history_config).store
    with serving(store=store) as url:
        then = ls("100", "--cluster", "prod", "--at", "10m", "-o", "json", "--url", url)
        (row,) = json.loads(then.stdout)
        assert (row["cluster"], row["node"], row["serial"], row["vbios"]) == ("prod", "n1", "100", None)
        early = ls("--at", "2d ago", "--url", url)
        assert (early.exit_code, early.stdout, early.stderr.count("\n")) == (2, "", 1)
        assert "the history begins at" in early.stderr
    bad = ls("--at", "2099-01-01", "--url", url)
    assert (bad.exit_code, "--at" in bad.stderr) == (2, True)
