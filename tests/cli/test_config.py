"""`gpuid config`."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from collector.cli import gpuid
from collector.cli.config import duration_text
from collector.config import Duration, load
from tests.config.test_examples import CONFIG

BCRYPT = "$2b$12$" + "x" * 53


def shown(path: Path) -> str:
    result = CliRunner().invoke(gpuid, ["config", "-c", str(path)])
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def written(folder: Path, text: str) -> Path:
    path = folder / "gpuid.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_of_the_example_round_trips(tmp_path: Path):
    example = CONFIG / "gpuid.full.toml"
    text = shown(example)
    assert load(
        written(tmp_path, text.replace("https://inventory.example.com/***", "https://inventory.example.com/gpus"))
    ) == load(example)
    document = tomllib.loads(text)
    assert (document["defaults"]["refresh"], document["defaults"]["max_error_size"]) == ("1h", "64KiB")
    assert document["clusters"][1] == {"name": "here", "in_cluster": True, "refresh": "30m"}


@pytest.mark.parametrize(
    "clusters",
    [
        '[[clusters]]\ncontext = "a"\n',
        '[defaults]\nkubeconfig = "/a:/b"\nnode_selector = "x=y"\n[[clusters]]\ncontext = "a"\nnode_selector = ""\n',
        '[defaults]\npreset = ["gke", "aks"]\n[[clusters]]\ncontext = "a"\npreset = "aks"\n'
        '[[clusters]]\ncontext = "b"\n',
        '[defaults]\nsources = [{namespace = "n", selector = "", container = "c"}]\n'
        '[[clusters]]\ncontext = "a"\n[[clusters]]\ncontext = "b"\npreset = "gpu-operator"\n'
        '[[clusters]]\ncontext = "c"\n'
        f'sources = [{{namespace = "{"n" * 60}", selector = "{"a" * 60}", container = "c"}}]\n'
        '[[clusters]]\ncontext = "d"\n'
        'sources = [{namespace = "m", selector = "a=b", container = "c", method = "log"}]\n',
        '[[clusters]]\ncontext = "übung-クラスタ \\" 测试"\nname = "x"\n'
        'refresh = "1h30m1.5s"\ncommand = ["a b", "-q"]\n',
    ],
)
def test_printed_configuration_loads_unchanged(tmp_path: Path, clusters: str):
    path = written(tmp_path, clusters)
    (tmp_path / "other").mkdir()
    assert load(written(tmp_path / "other", shown(path))) == load(path)


def test_secrets_are_not_printed(tmp_path: Path):
    path = written(
        tmp_path,
        f"""[[clusters]]
context = "a"
[server]
basic_auth = {{ ann = "{BCRYPT}" }}
[store]
url = "postgresql://gpuid:hunter%2F2@db:5432/gpuid?application_name=x&password=hunter3&sslmode=require"
[sinks.hook]
type = "webhook"
url = "https://hooks.example.com/services/T0/hunter4?key=hunter5"
""",
    )
    text = shown(path)
    assert "hunter" not in text
    assert BCRYPT not in text
    document = tomllib.loads(text)
    assert document["store"]["url"] == (
        "postgresql://gpuid:***@db:5432/gpuid?application_name=x&password=***&sslmode=require"
    )
    assert document["sinks"]["hook"]["url"] == "https://hooks.example.com/***"
    assert document["server"]["basic_auth"] == {"ann": "***"}


def test_a_wrong_configuration_is_one_line_and_exit_2(tmp_path: Path):
    path = written(tmp_path, "[[clusters]]\nrefesh = '1h'\n")
    result = CliRunner().invoke(gpuid, ["config", "-c", str(path)])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert 'did you mean "refresh"?' in result.stderr


@pytest.mark.parametrize(
    ("duration", "text"), [(5400, "1h30m"), (1.5, "1.5s"), (0.05, "0.05s"), (0, "0s"), (90061, "1d1h1m1s")]
)
def test_durations_are_written_as_people_write_them(duration: float, text: str):
    assert duration_text(duration) == text


@given(st.floats(0, 1e8).map(lambda value: round(value, 6)))
def test_a_duration_round_trips(duration: float):
    assert Duration.parse(duration_text(duration)) == duration
