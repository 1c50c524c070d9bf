"""The `gpuid` command itself: help, errors, signals, pipes, completion, start-up."""

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import collector.cli
from collector.cli import gpuid as command
from collector.cli.options import config_option
from collector.config import ConfigError
from collector.model import GpuidError

Run = Callable[..., subprocess.CompletedProcess[str]]

NAMES = [
    "demo",
    "init",
    "check",
    "config",
    "grant",
    "run",
    "status",
    "ls",
    "nodes",
    "clusters",
    "top",
    "where",
    "diff",
    "history",
    "export",
    "mark",
    "unmark",
    "marks",
    "outbox",
    "store",
    "print",
    "health",
    "parse",
    "simulate",
]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("health", "--timeout", "0s"), "Invalid value for '--timeout': must be greater than zero"),
        (("ls", "--timeout", "0s"), "Invalid value for '--timeout': must be greater than zero"),
        (("where", " "), "expected at least one ID, or --file"),
        (("history", ""), "Invalid value for 'NODE': must not be empty"),
    ],
)
def test_a_value_without_meaning_is_rejected(args: tuple[str, ...], message: str):
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


class TestHelp:
    def test_commands_are_in_the_order_that_a_newcomer_needs(self):
        result = CliRunner().invoke(command, ["--help"])
        assert result.exit_code == 0
        listed = [line.split()[0] for line in result.stdout.partition("Commands:\n")[2].splitlines()]
        assert listed == NAMES

    def test_without_arguments_the_help_is_shown(self):
        result = CliRunner().invoke(command, [])
        assert result.exit_code == 2
        assert "Know where every physical NVIDIA GPU" in result.stderr

    @pytest.mark.parametrize("name", NAMES)
    def test_a_command_has_an_example_and_explains_each_option(self, name: str):
        result = CliRunner().invoke(command, [name, "--help"])
        assert result.exit_code == 0
        examples = result.stdout.partition("\n  Example")[2].splitlines()[1:]
        assert any(line.startswith("    ") and f"gpuid {name}" in line for line in examples)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        assert [option.name for option in found.params if isinstance(option, click.Option) and not option.help] == []

    @pytest.mark.parametrize("name", NAMES)
    def test_the_help_fits_a_terminal(self, name: str):
        result = CliRunner().invoke(command, [name, "--help"], terminal_width=100)
        assert [line for line in result.stdout.splitlines() if len(line) > 110] == []


class TestVersion:
    def test_it_is_the_version_of_the_distribution(self, gpuid: Run):
        result = gpuid("--version")
        assert (result.returncode, result.stdout) == (0, f"gpuid {importlib.metadata.version('gpuid-collector')}\n")


class TestImports:
    HEAVY = frozenset(
        {"aioboto3", "aiohttp", "alembic", "anyio", "asyncio", "boto3", "httpx", "kubernetes_asyncio"}
    ) | frozenset({"prometheus_client", "pyarrow", "rich", "sqlalchemy", "uvloop"})

    @pytest.mark.parametrize(
        ("args", "needed"),
        [
            (["--version"], []),
            (["--help"], []),
            (["parse"], []),
            (["print", "rules"], []),
            (["config", "--help"], []),
            (["health", "--help"], []),
            (["health", "--url", "http://127.0.0.1:1"], []),
            (["ls", "--help"], ["anyio", "asyncio", "httpx", "rich"]),  # httpx imports the others
            (["ls", "--url", "http://127.0.0.1:1"], ["anyio", "asyncio", "httpx", "rich"]),
        ],
        ids=lambda value: " ".join(sorted(value) if isinstance(value, set) else value),
    )
    def test_a_command_imports_only_what_it_needs(self, args: list[str], needed: list[str]):
        code = "import sys\ntry: collector.cli.main()\nfinally: print(*sys.modules)"
        result = subprocess.run(
            [sys.executable, "-c", f"import collector.cli\n{code}", *args],
            input="<nvidia_smi_log><attached_gpus>0</attached_gpus></nvidia_smi_log>",
            capture_output=True,
            text=True,
            check=False,
        )
        assert self.HEAVY & set(result.stdout.split()) <= set(needed)

    def test_only_commands_that_need_a_cluster_import_the_kubernetes_client(self):
        names = [name for name in NAMES if name not in {"demo", "init", "check", "grant", "run"}]
        code = (
            "import sys, collector.cli\n"
            "for name in sys.argv[1:]: collector.cli.gpuid.get_command(None, name)\n"
            "print(*sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
        assert "kubernetes_asyncio" not in result.stdout.split()


class TestErrors:
    @pytest.fixture
    def failing(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
        """Make a command that raises."""

        def install(error: BaseException) -> None:
            @click.command()
            def parse() -> None:
                raise error

            monkeypatch.setattr(command, "get_command", lambda _ctx, _name: parse)

        return install

    def test_an_error_of_gpuid_is_one_line_and_exit_2(self, failing: Callable[[BaseException], None]):
        failing(ConfigError("gpuid.toml: clusters:\n  expected \x1b[31mred"))
        result = CliRunner().invoke(command, ["parse"])
        assert (result.exit_code, result.stderr) == (2, "gpuid: gpuid.toml: clusters: expected [31mred\n")

    def test_an_error_in_a_task_group_is_one_line_too(self, failing: Callable[[BaseException], None]):
        failing(ExceptionGroup("outer", [ExceptionGroup("inner", [GpuidError("10.0.0.1: timed out")])]))
        result = CliRunner().invoke(command, ["parse"])
        assert (result.exit_code, result.stderr) == (2, "gpuid: 10.0.0.1: timed out\n")

    def test_a_bug_is_not_hidden(self, failing: Callable[[BaseException], None]):
        failing(ExceptionGroup("", [ConfigError("x"), ZeroDivisionError()]))
        assert isinstance(CliRunner().invoke(command, ["parse"]).exception, ExceptionGroup)

    def test_a_wrong_option_names_the_command_and_its_help(self):
        result = CliRunner().invoke(command, ["parse", "--compakt"])
        assert result.exit_code == 2
        assert result.stderr.startswith("gpuid: parse: No such option")
        assert result.stderr.endswith("see `gpuid parse --help`\n")
        assert result.stderr.count("\n") == 1

    def test_a_wrong_command_suggests_the_nearest(self):
        result = CliRunner().invoke(command, ["simulat"])
        assert result.stderr == 'gpuid: no command "simulat"; did you mean "simulate"?; see `gpuid --help`\n'

    def test_a_wrong_duration_or_address_shows_the_format(self):
        result = CliRunner().invoke(command, ["simulate", "--for", "5"])
        assert result.exit_code == 2
        assert 'expected a duration such as "30s", "5m" or "1h", got "5"' in result.stderr
        result = CliRunner().invoke(command, ["simulate", "--listen", "localhost"])
        assert result.exit_code == 2
        assert "expected an address such as" in result.stderr


class TestConfiguration:
    @pytest.fixture
    def shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
        """Show which configuration a command is given, in an empty folder."""

        @click.command()
        @config_option
        def parse(config: Path) -> None:
            click.echo(config)

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(command, "get_command", lambda _ctx, _name: parse)
        return lambda *args, env=None: CliRunner().invoke(command, ["parse", *args], env=env).output

    def test_the_option_takes_precedence_over_environment_and_folder(self, shown: Callable[..., str], tmp_path: Path):
        (tmp_path / "gpuid.toml").touch()
        assert shown("-c", "a.toml", env={"GPUID_CONFIG": "b.toml"}) == "a.toml\n"
        assert shown(env={"GPUID_CONFIG": "b.toml"}) == "b.toml\n"
        assert shown(env={"GPUID_CONFIG": None}) == "gpuid.toml\n"

    @pytest.mark.skipif(Path("/etc/gpuid/gpuid.toml").exists(), reason="this machine has a configuration of its own")
    def test_without_a_configuration_the_search_path_is_listed(self, shown: Callable[..., str]):
        assert shown(env={"GPUID_CONFIG": None}) == (
            "gpuid: no configuration: expected --config FILE, $GPUID_CONFIG, ./gpuid.toml or /etc/gpuid/gpuid.toml;"
            " create one with `gpuid init`\n"
        )


class TestSignalsAndPipes:
    def test_a_closed_pipe_ends_a_command_quietly(self, tmp_path: Path):
        reading, writing = os.pipe()
        os.close(reading)
        text = "<nvidia_smi_log><attached_gpus>0</attached_gpus></nvidia_smi_log>"
        result = subprocess.run(
            [sys.executable, "-m", "collector", "parse"],
            input=text.encode(),
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(writing)
        assert (result.returncode, result.stderr) == (141, b"")

    @pytest.mark.parametrize("command", [["demo", "--nodes", "1"], ["simulate", "--clusters", "1", "--nodes", "1"]])
    def test_a_closed_pipe_ends_a_running_command_quietly(self, command: list[str]):
        listen = ["--listen", "127.0.0.1:0"] if command[0] == "demo" else []
        with subprocess.Popen(
            [sys.executable, "-m", "collector", *command, *listen, "--for", "60s"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 141

    @pytest.mark.parametrize(
        "command",
        [["--version"], ["ls", "--help"], ["init", "-f", "-"], ["simulate", "--clusters", "1", "--nodes", "1"]],
        ids=" ".join,
    )
    def test_output_that_cannot_be_written_is_one_line_and_exit_2(self, command: list[str], tmp_path: Path):
        (tmp_path / "config").write_text(
            "contexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: https://a}}]\n"
            "users: [{name: u, user: {token: t}}]\n"
        )
        with Path("/dev/full").open("wb") as full:
            result = subprocess.run(
                [sys.executable, "-m", "collector", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
                text=True,
                env={**os.environ, "KUBECONFIG": str(tmp_path / "config")},
            )
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1] == "gpuid: standard output: no space left on device"
        assert "Traceback" not in result.stderr

    def test_an_interrupt_ends_a_command_quietly(self, monkeypatch: pytest.MonkeyPatch):
        @click.command()
        def parse() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(command, "get_command", lambda _ctx, _name: parse)
        result = CliRunner().invoke(command, ["parse"])
        assert (result.exit_code, result.output.strip()) == (130, "")


class TestCompletion:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("gpuid s", "plain,status\nplain,store\nplain,simulate\n"),
            ("gpuid parse --c", "plain,--compact\n"),
            ("gpuid ls --level ", "plain,replace\nplain,reset\n"),
            ("gpuid ls --mark q", "plain,quarantine\n"),
            ("gpuid ls --output ", "plain,table\nplain,wide\nplain,json\nplain,csv\n"),
        ],
    )
    def test_the_shell_completes_commands_options_and_values(self, gpuid: Run, words: str, expected: str):
        env = {"_GPUID_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
        assert gpuid(env=env).stdout == expected

    def test_completing_names_does_not_import_commands(self):
        assert {place.partition(":")[0] for place, _ in collector.cli._COMMANDS.values()} == {
            f"collector.cli.{name}"
            for name in NAMES
            if name not in ("unmark", "marks")  # which are in mark's
        }
        ctx = click.Context(command)
        assert [item.value for item in command.shell_complete(ctx, "")] == NAMES
