"""`gpuid init`."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from collector import config
from collector.cli import gpuid
from collector.cli.initial_config import NewCluster, cluster_names
from collector.cli.initial_config import render as render_config

Run = Callable[..., subprocess.CompletedProcess[str]]

ARN = "arn:aws:eks:us-east-1:111122223333:cluster/prod"
ODD = [ARN, "gke_project_europe-west4-a_prod", 'the "odd" one\\', "ünïcode/☃", "kubernetes-admin@kubernetes"]


def kubeconfig(path: Path, names: list[str], *, servers: dict[str, str] | None = None) -> Path:
    """Write a kubeconfig with these contexts, each of its own server unless `servers` says which."""
    addresses = {name: f"https://127.0.0.1:{number}" for number, name in enumerate(names, start=1)} | (servers or {})
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": name, "cluster": {"server": addresses[name]}} for name in names],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": name, "context": {"cluster": name, "user": "u"}} for name in names],
            }
        )
    )
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and a kubeconfig with odd names that KUBECONFIG names."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", ODD)))
    return folder


def init(*args: str | Path) -> Result:
    """Run it without asking a cluster."""
    return CliRunner().invoke(gpuid, ["init", "--offline", *map(str, args)])


def render(names: list[str], *, kubeconfig: str | None, comments: tuple[str, ...] = ()) -> str:
    clusters = [
        NewCluster(context=context, name=name, comments=comments) for context, name in cluster_names(names).items()
    ]
    return render_config(clusters, kubeconfig=kubeconfig, listen="127.0.0.1:8080", store="sqlite:///x.db")


def contexts(path: Path) -> list[str | None]:
    return [cluster.context for cluster in config.load(path).clusters]


class TestFile:
    def test_it_has_every_context_in_the_kubeconfigs_order(self, here: Path):
        assert init().exit_code == 0
        clusters = config.load(here / "gpuid.toml").clusters
        assert [cluster.name for cluster in clusters] == ODD
        assert [cluster.context for cluster in clusters] == ODD

    def test_it_names_its_kubeconfig(self, here: Path, tmp_path: Path):
        init()
        assert config.load(here / "gpuid.toml").clusters[0].kubeconfig == str(tmp_path / "kubeconfig")

    def test_a_relative_kubeconfig_becomes_absolute(self, here: Path, tmp_path: Path):
        kubeconfig(here / "mine", ["a"])
        kubeconfig(here / "yours", ["b"])
        assert init("--kubeconfig", f"mine{os.pathsep}yours", "-o", tmp_path / "x.toml").exit_code == 0
        loaded = config.load(tmp_path / "x.toml")
        assert contexts(tmp_path / "x.toml") == ["a", "b"]
        assert loaded.clusters[0].kubeconfig == os.pathsep.join([str(here / "mine"), str(here / "yours")])

    def test_the_default_kubeconfig_is_not_named(self, gpuid: Run, tmp_path: Path):
        (tmp_path / "home/.kube").mkdir()
        kubeconfig(tmp_path / "home/.kube/config", ["a"])
        result = gpuid("init", "--offline")
        assert (result.returncode, result.stderr) == (0, "")
        assert config.load(tmp_path / "home/gpuid.toml").clusters[0].kubeconfig is None

    def test_its_comments_explain_each_table(self, here: Path):
        init("--context", ARN)
        text = (here / "gpuid.toml").read_text()
        for line in (
            f'# Pods that can run nvidia-smi, by preset: {", ".join(config.PRESETS)}.\npreset = "gpu-operator"',
            '# refresh = "1h"',
            'listen = "127.0.0.1:8080"',
            f'[store]\nurl = "sqlite://{here}/gpuid.db"',
            f'[[clusters]]\nname = "{ARN}"\ncontext = "{ARN}"',
        ):
            assert line in text

    def test_commented_out_settings_are_valid_too(self):
        settings = [
            line.removeprefix("# ")
            for line in render(["a"], kubeconfig=None).splitlines()
            if not line.startswith("# ") or (" = " in line and line.split()[2] == "=")
        ]
        text = "\n".join(line for line in settings if not line.startswith("preset"))
        assert config.parse(text, Path("gpuid.toml")).clusters[0].active_sources == config.PRESETS["gpu-operator"]

    def test_contexts_of_one_server_are_kept_with_a_warning(self, here: Path):
        kubeconfig(here / "k", ["admin", "eu", "dev"], servers={"dev": "https://127.0.0.1:1"})
        output = init("--kubeconfig", "k").stdout
        text = (here / "gpuid.toml").read_text()
        assert contexts(here / "gpuid.toml") == ["admin", "eu", "dev"]
        assert text.count("# Same server as") == 1
        assert (
            '# Same server as "admin". If both are the same cluster, remove one of the two: only the first is read.\n'
            '[[clusters]]\nname = "dev"\n'
        ) in text
        assert (
            "\n1 of them has the same server as another one; if both are the same cluster, remove one of the two "
            in output
        )

    @given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True), st.text(min_size=1))
    def test_any_name_survives(self, names: list[str], path: str):
        text = render(names, kubeconfig=f"/k/{path.replace(os.pathsep, '')}")
        loaded = config.parse(text, Path("gpuid.toml"))
        assert [cluster.context for cluster in loaded.clusters] == names
        printable = [name for name in names if name.isprintable()]
        assert [cluster.name for cluster in loaded.clusters if cluster.context in printable] == printable

    def test_a_context_name_that_is_not_printable_is_replaced(self):
        loaded = config.parse(render(["a\x1f", "a_", "b"], kubeconfig=None), Path("gpuid.toml"))
        assert [(cluster.name, cluster.context) for cluster in loaded.clusters] == [
            ("a__", "a\x1f"),
            ("a_", "a_"),
            ("b", "b"),
        ]


class TestOutput:
    def test_it_prints_what_it_found_and_the_next_commands(self, here: Path):
        assert init("--context", "g*", "--context", ARN).stdout == (
            f"Found 2 contexts:\n  {ARN}\n  gke_project_europe-west4-a_prod\n"
            "Wrote gpuid.toml. Next:\n"
            "  gpuid check    checks every cluster\n"
            "  gpuid run      collects and serves\n"
        )

    def test_the_next_commands_name_another_file(self, here: Path):
        assert "  gpuid check -c 'a b.toml'    checks every cluster\n" in init("-o", "a b.toml").stdout

    def test_a_dash_is_standard_output(self, here: Path):
        result = init("-o", "-")
        assert [cluster.context for cluster in config.parse(result.stdout, Path("x")).clusters] == ODD
        assert result.stderr.startswith("Found 5 contexts:\n")
        assert list(here.iterdir()) == []

    def test_names_that_would_steer_a_terminal_are_escaped(self, here: Path):
        names = ["\x1b[31mred", "a\nb", "\u202eevil", "\x9b2J", "\U000e0001tag"]
        kubeconfig(here / "hostile", names)
        for output in ("-", "x.toml", "\x1b[31m.toml"):
            result = init("--kubeconfig", "hostile", "-o", output)
            assert (result.stdout + result.stderr).replace("\n", "").isprintable()
            written = result.stdout if output == "-" else (here / output).read_text()
            assert [cluster.context for cluster in config.parse(written, Path("x")).clusters] == names
        assert r"  a\nb" in init("--kubeconfig", "hostile", "-o", "y.toml").stdout.splitlines()

    def test_many_contexts_are_counted(self, here: Path):
        kubeconfig(here / "many", [f"c{n:02}" for n in range(12)])
        lines = init("--kubeconfig", "many").stdout.splitlines()
        assert lines[0] == "Found 12 contexts:"
        assert lines[10:12] == ["  c09", "  … and 2 more"]


class TestRefusals:
    def test_a_file_is_overwritten_only_with_force(self, here: Path):
        (here / "gpuid.toml").write_text("mine")
        result = init()
        assert (result.exit_code, result.output) == (
            2,
            "gpuid: gpuid.toml: already exists; use --force to replace it, or --add to add to it\n",
        )
        assert (here / "gpuid.toml").read_text() == "mine"
        assert init("--force").exit_code == 0
        assert contexts(here / "gpuid.toml") == ODD

    def test_an_unknown_context_lists_the_known_ones_nearest_first(self, here: Path):
        result = init("--context", "gke_projekt")
        assert result.exit_code == 2
        assert result.stderr.startswith('gpuid: --context: no context "gke_projekt"; there are gke_project_')
        assert ARN in result.stderr
        assert list(here.iterdir()) == []

    def test_contexts_with_mistakes_are_left_out_with_the_reason(self, here: Path):
        (here / "mixed").write_text(
            "clusters: [{name: c, cluster: {server: https://c}}]\n"
            "contexts: [{name: good, context: {cluster: c}}, {name: bad, context: {cluster: 5}}]\n"
        )
        result = init("--kubeconfig", "mixed")
        assert result.exit_code == 0
        assert [cluster.context for cluster in config.load(here / "gpuid.toml").clusters] == ["good"]
        reason = f'context "bad" in {here}/mixed: context "bad": cluster: expected text, got a number; put it in quotes'
        assert f"Left out: {reason}\n" in result.stdout
        result = init("--kubeconfig", "mixed", "--context", "bad", "--force")
        assert (result.exit_code, result.stderr) == (2, f"gpuid: --context: {reason}\n")

    def test_an_unusable_kubeconfig_is_one_line_and_exit_2(self, here: Path):
        (here / "broken").write_text("contexts: [")
        kubeconfig(here / "empty", [])
        for path in ("absent", "broken", "empty"):
            result = init("--kubeconfig", path)
            assert (result.exit_code, result.stdout) == (2, "")
            assert result.stderr.startswith("gpuid: ")
            assert result.stderr.count("\n") == 1
        assert not (here / "gpuid.toml").exists()

    def test_an_absent_folder_is_one_line_and_exit_2(self, here: Path):
        result = init("-o", "absent/gpuid.toml")
        assert (result.exit_code, result.output) == (2, "gpuid: absent/gpuid.toml: no such file or directory\n")
