"""`gpuid outbox`, on a store without a running collector."""

import json
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result

from collector.cli import gpuid
from collector.store import OpenMode, Store, StoreSettings, Subscription


def outbox(*args: str | Path, answer: str | None = None) -> Result:
    return CliRunner().invoke(gpuid, ["outbox", *map(str, args)], input=answer)


@pytest.fixture
def config(history_config: Path) -> Path:
    """Of two changes, hook refused both and lake, configured no more, has the first one on its way.

    log wants readings, but there are none.
    """
    settings = StoreSettings(url=f"sqlite://{history_config.parent}/gpuid.db")

    async def fill() -> None:
        async with Store.open(settings) as store:
            sinks = {
                "hook": Subscription("changes", True),
                "lake": Subscription("changes", True),
                "log": Subscription("readings", False),
            }
            await store.reconcile(sinks)
            for reason in ("answered 400", "answered 422"):
                batch = await store.outbox.next_batch("hook", 1)
                assert batch is not None
                await store.outbox.dead_letter(batch, reason)
            assert await store.outbox.next_batch("lake", 1) is not None
            del sinks["lake"]
            await store.reconcile(sinks)

    anyio.run(fill)
    with history_config.open("a") as file:
        file.write('[sinks.hook]\ntype = "webhook"\nurl = "http://127.0.0.1:1/"\n')
    return history_config


def letters(config: Path) -> list[tuple[int, bool]]:
    """Each dead letter's number, and whether it is to be sent again."""
    found = json.loads(outbox("letters", "-o", "json", "-c", config).stdout or "[]")
    return [(letter["id"], letter["replay"]) for letter in found]


class TestLs:
    def test_it_lists_backlogs(self, config: Path):
        result = outbox("ls", "-c", config)
        assert (result.exit_code, result.stderr) == (0, "")
        lines = [line.split() for line in result.stdout.splitlines()]
        assert lines[0] == ["SINK", "EMIT", "RECORDS", "OLDEST_AT", "DEAD_LETTERS", "CONFIGURED"]
        assert lines[1] == ["hook", "changes", "0", "-", "2", "yes"]
        assert [lines[2][0], *lines[2][4:]] == ["lake", "0", "no"]
        assert lines[3] == ["log", "readings", "0", "-", "0", "yes"]
        assert result.stdout.endswith("\n\n2 dead letters; `gpuid outbox letters` lists them.\n")

    def test_json_has_the_keys_of_batches(self, config: Path):
        found = json.loads(outbox("ls", "-o", "json", "-c", config).stdout)
        assert [(sink["sink"], sink["records"], sink["next"] is None) for sink in found] == [
            ("hook", 0, True),
            ("lake", 2, False),
            ("log", 0, True),
        ]
        assert found[1]["oldest_at"].endswith("Z")

    def test_without_sinks_it_is_exit_1(self, history_config: Path):
        result = outbox("ls", "-c", history_config)
        assert (result.exit_code, result.stdout, result.stderr) == (1, "", "No sinks found.\n")


class TestLetters:
    def test_it_lists_dead_letters(self, config: Path):
        heading, *lines = [line.split() for line in outbox("letters", "-c", config).stdout.splitlines()]
        assert heading == ["ID", "SINK", "TIME", "COUNT", "REPLAY", "REASON"]
        assert [(line[0], line[1], *line[3:]) for line in lines] == [
            ("1", "hook", "1", "no", "answered", "400"),
            ("2", "hook", "1", "no", "answered", "422"),
        ]

    def test_json_has_their_keys(self, config: Path):
        found = json.loads(outbox("letters", "-o", "json", "-c", config).stdout)
        assert found[0].keys() == {"id", "sink", "key", "time", "reason", "count", "replay"}

    def test_a_sink_can_be_chosen(self, config: Path):
        assert len(json.loads(outbox("letters", "--sink", "hook", "-o", "json", "-c", config).stdout)) == 2
        none = outbox("letters", "--sink", "lake", "-c", config)
        assert (none.exit_code, none.stdout, none.stderr) == (1, "", "No dead letters found.\n")
        unknown = outbox("letters", "--sink", "hok", "-c", config)
        assert unknown.exit_code == 2
        assert 'no sink "hok"; did you mean "hook"?' in unknown.stderr


class TestShow:
    def test_it_prints_a_letter_with_its_records(self, config: Path):
        letter = json.loads(outbox("show", "2", "-c", config).stdout)
        assert (letter["id"], letter["reason"], letter["count"]) == (2, "answered 422", 1)
        assert [(record["event"], record["node"], record["gpu"]) for record in letter["records"]] == [
            ("moved", "n2", "100")
        ]

    def test_an_unknown_letter_is_exit_1(self, config: Path):
        result = outbox("show", "9", "-c", config)
        assert (result.exit_code, result.stderr) == (1, "gpuid: no dead letter 9\n")


class TestReplay:
    def test_the_given_letters_are_queued(self, config: Path):
        result = outbox("replay", "2", "-c", config)
        assert (result.exit_code, result.stdout) == (0, "Queued 1 dead letter (1 record) for redelivery.\n")
        assert letters(config) == [(1, False), (2, True)]

    def test_all_letters_of_a_sink_are_queued(self, config: Path):
        assert outbox("replay", "--sink", "hook", "-c", config).stdout == (
            "Queued 2 dead letters (2 records) for redelivery.\n"
        )
        assert letters(config) == [(1, True), (2, True)]
        assert outbox("replay", "--sink", "lake", "-c", config).stdout == (
            "Queued 0 dead letters (0 records) for redelivery.\n"
        )

    def test_a_letter_of_a_removed_sink_waits_and_says_so(self, config: Path):
        config.write_text(config.read_text().replace("[sinks.hook]", "[sinks.other]"))
        result = outbox("replay", "1", "-c", config)
        assert result.stderr == (
            'Sink "hook" is not configured: its records are kept until the sink is configured again.\n'
        )

    @pytest.mark.parametrize(
        ("args", "code", "message"),
        [
            ((), 2, "gpuid: outbox replay: expected either the ids of dead letters or --sink NAME; see "),
            (
                ("1", "--sink", "hook"),
                2,
                "gpuid: outbox replay: expected either the ids of dead letters or --sink NAME",
            ),
            (("1", "9"), 1, "gpuid: no dead letter 9; `gpuid outbox letters` lists them\n"),
            (
                ("--sink", "nope"),
                2,
                'gpuid: outbox replay: --sink: no sink "nope"; there are hook, lake, log; see ',
            ),
        ],
    )
    def test_wrong_arguments_change_nothing(self, config: Path, args: tuple[str, ...], code: int, message: str):
        result = outbox("replay", *args, "-c", config)
        assert result.exit_code == code
        assert result.stderr.startswith(message)
        assert letters(config) == [(1, False), (2, False)]


class TestDrop:
    def test_it_asks_for_confirmation(self, config: Path):
        result = outbox("drop", "1", "-c", config, answer="n\n")
        assert result.exit_code == 1
        assert "Delete 1 dead letter (1 record) permanently? [y/N]" in result.stderr
        assert result.stderr.endswith("gpuid: nothing was deleted; use --yes to skip the confirmation\n")
        assert letters(config) == [(1, False), (2, False)]
        assert outbox("drop", "1", "-c", config, answer="y\n").stdout == "Deleted 1 dead letter (1 record).\n"
        assert letters(config) == [(2, False)]

    def test_without_an_answer_nothing_is_deleted(self, config: Path):
        result = outbox("drop", "--sink", "hook", "-c", config, answer="")
        assert result.exit_code == 1
        assert letters(config) == [(1, False), (2, False)]

    def test_with_yes_it_does_not_ask(self, config: Path):
        result = outbox("drop", "--sink", "hook", "--yes", "-c", config)
        assert (result.exit_code, result.stderr) == (0, "")
        assert letters(config) == []


@pytest.mark.parametrize("command", [("ls",), ("show", "1"), ("replay", "1"), ("drop", "1", "--yes")])
def test_without_a_store_there_is_no_outbox(tmp_path: Path, command: tuple[str, ...]):
    config = tmp_path / "gpuid.toml"
    config.write_text('[[clusters]]\ncontext = "prod"\n')
    result = outbox(*command, "-c", config)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"gpuid: {config}: store: expected a [store] table, which holds the outbox\n"


def test_it_works_while_a_collector_runs(config: Path):
    async def concurrently(act: Callable[[], None]) -> None:
        async with Store.open(StoreSettings(url=f"sqlite://{config.parent}/gpuid.db"), OpenMode.COLLECTOR):
            await anyio.to_thread.run_sync(act)

    def act() -> None:
        assert outbox("replay", "1", "-c", config).exit_code == 0
        assert outbox("drop", "2", "-y", "-c", config).exit_code == 0
        assert letters(config) == [(1, True)]

    anyio.run(concurrently, act)


def test_commands_are_in_the_order_of_use():
    listed = outbox("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == ["ls", "letters", "show", "replay", "drop"]


@pytest.mark.parametrize("command", ["ls", "letters", "show", "replay", "drop"])
def test_each_command_has_an_example(command: str):
    help_text = outbox(command, "--help").stdout
    assert f"\n    gpuid outbox {command}" in help_text
    assert "\\b" not in help_text
