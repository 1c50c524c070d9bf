"""What all commands have in common: options of lists, exit codes, and tables that fit 80 columns."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

import click
import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid
from collector.cli.table import cell_width
from collector.config import load
from collector.inventory import Inventory
from collector.model import Fingerprint, Gpu, NodeInfo, Reading
from tests.cli.conftest import recorded

LISTS = {"status", "ls", "nodes", "clusters", "where", "diff", "history", "marks", "outbox ls", "outbox letters"}
REPORTS = {"check"}  # whose tables are for people alone: programs take json
FORMATS = ("table", "wide", "json", "csv")
LIST_OPTIONS = {"--no-headers", "--sort", "--limit"}

ARN = "arn:aws:eks:us-east-1:123456789012:cluster/prod-クラスタ"
NODE = "ノード-ip-10-0-123-45.us-east-1.compute.internal"
GPU = Gpu(uuid="GPU-5c1fe5e8-3b1f-4a9b-9d3e-0d7c2f7f3a11", serial="1652922001234", model="NVIDIA GB200 NVL 186GB HBM3e")


def commands(group: click.Group = gpuid, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", found


COMMANDS = dict(commands())


def options(command: click.Command) -> dict[str, click.Option]:
    return {name: option for option in command.params if isinstance(option, click.Option) for name in option.opts}


def run(*args: str) -> Result:
    return CliRunner().invoke(gpuid, args)


class TestOptions:
    def test_only_lists_and_reports_take_a_format(self):
        takes_format = {name for name, command in COMMANDS.items() if "--no-headers" in options(command)}
        assert takes_format == LISTS
        assert COMMANDS.keys() >= LISTS | REPORTS

    @pytest.mark.parametrize("name", sorted(LISTS))
    def test_every_list_has_the_same_options(self, name: str):
        found = options(COMMANDS[name])
        assert found.keys() >= LIST_OPTIONS
        assert isinstance(found["-o"].type, click.Choice)
        assert tuple(found["-o"].type.choices) in (FORMATS, tuple(one for one in FORMATS if one != "wide"))

    @pytest.mark.parametrize("name", sorted(COMMANDS))
    def test_o_takes_a_format_and_json_is_one(self, name: str):
        found = options(COMMANDS[name])
        if "-o" in found:
            assert isinstance(found["-o"].type, click.Choice) or found["-o"].hidden
        if "--json" in found:
            assert found["--json"].hidden
            assert "-o" in found

    @pytest.mark.parametrize("name", sorted(COMMANDS))
    def test_cluster_and_sink_names_are_completed(self, name: str):
        for option in options(COMMANDS[name]).values():
            if option.opts[0] in ("--cluster", "--sink", "--node"):
                assert option._custom_shell_complete is not None, option.opts


class TestNoAnswer:
    WORDS: ClassVar = {
        "where": ["1"],
        "history": ["n1"],
        "mark": ["1", "--as", "rma"],
        "unmark": ["1"],
        "export": ["-o", "csv"],
    }

    # But of `health`, of which container runtimes expect 1.
    ASKING: ClassVar = sorted(name for name, one in COMMANDS.items() if "--url" in options(one) and name != "health")

    @pytest.mark.parametrize("name", ASKING)
    def test_it_is_one_line_and_exit_2(self, name: str):
        result = run(*name.split(), *self.WORDS.get(name, []), "--url", "http://127.0.0.1:1")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert "is a collector running there?" in result.stderr


class TestLongNames:
    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        """A store in which a GPU with long names has moved between nodes of a cluster with an ARN, and is marked."""
        config = recorded(tmp_path, (f"other-{NODE}", 3600.0, GPU), (NODE, 60.0, GPU), cluster=ARN)
        text = config.read_text(encoding="utf-8").replace('"prod"', json.dumps(ARN, ensure_ascii=False))
        config.write_text(
            f'{text}[sinks.a-sink-with-quite-a-long-name-{"x" * 30}]\ntype = "stdout"\n', encoding="utf-8"
        )
        note = "row remap failure " * 10
        marked = run("mark", str(GPU.serial), "--as", "rma", "--note", note, "--ticket", "T" * 60, "-c", str(config))
        assert marked.exit_code == 0
        return config

    @pytest.fixture
    def inventory(self) -> Inventory:
        """What the collector knows now: the same cluster."""
        inventory = Inventory()
        inventory.apply(
            Reading(
                cluster=ARN,
                node=NodeInfo(name=NODE, capacity=8),
                source="gpu-operator/p",
                fingerprint=Fingerprint(pod_uid="p", container_id="c", restarts=0, boot_id="b", capacity=8),
                time=1764000000.0,
                driver_version="570.148.08",
                cuda_version="12.8",
                gpus=(GPU,),
            )
        )
        return inventory

    @pytest.fixture
    def url(self, serving: Callable[..., AbstractContextManager[str]], config: Path) -> Iterator[str]:
        with serving(store=load(config).store, down=[ARN]) as url:
            yield url

    @pytest.mark.parametrize(
        "words",
        [
            *(["ls"], ["nodes"], ["clusters"], ["marks"], ["diff"], ["top"], ["status"]),
            *(["where", str(GPU.serial)], ["history", NODE], ["history", NODE, "--event", "moved"]),
        ],
        ids=" ".join,
    )
    def test_answers_of_a_collector_fit(self, url: str, words: list[str]):
        self.fits(run(*words, "--url", url), 1 if words == ["status"] else 0)

    @pytest.mark.parametrize(
        "words",
        [["marks"], ["marks", "--all"], ["diff"], ["where", str(GPU.serial)], ["history", NODE], ["outbox", "ls"]],
        ids=" ".join,
    )
    def test_answers_of_a_store_fit(self, config: Path, words: list[str]):
        self.fits(run(*words, "-c", str(config)), 1 if words == ["outbox", "ls"] else 0)

    def fits(self, result: Result, expected: int) -> None:
        assert result.exit_code == expected, result.stderr
        assert [line for line in result.stdout.splitlines() if cell_width(line) > 80] == []

    @pytest.mark.parametrize("name", sorted(LISTS - {"outbox ls", "outbox letters"}))
    def test_programs_get_full_names_and_the_columns_of_the_table(self, config: Path, url: str, name: str):
        place = ["-c", str(config)] if name.startswith("outbox") else ["--url", url]
        words = [*name.split(), *{"where": [str(GPU.serial)], "history": [NODE]}.get(name, []), *place]
        rows = json.loads(run(*words, "-o", "json").stdout)
        assert rows
        assert ARN in json.dumps(rows, ensure_ascii=False) or name == "marks"
        heading = run(*words, "-o", "csv").stdout.splitlines()[0].split(",")
        table = run(*words).stdout.splitlines()[0].lower().split()
        assert set(table) <= {*heading, *rows[0]} or name == "status"  # which is sentences
        assert {column.partition(".")[0] for column in heading} <= rows[0].keys()
        assert run(*words, "-o", "csv", "--no-headers").stdout.splitlines()[0].split(",") != heading
