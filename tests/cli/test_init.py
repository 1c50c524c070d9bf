"""`gpuid init`."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from anyio.from_thread import BlockingPortal, start_blocking_portal
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from collector import config
from collector.cli import gpuid
from collector.cli.initial_config import NewCluster, cluster_names, store_url
from collector.cli.initial_config import render as render_config
from collector.config.store import locate
from collector.simulator import SHAPES, Simulator
from tests.support.terminal import Terminal

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
        assert init("--kubeconfig", f"mine{os.pathsep}yours", "-f", tmp_path / "x.toml").exit_code == 0
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

    def test_commented_out_settings_are_valid(self):
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
            '# Same server as "admin". If they are the same cluster, remove one of them: only the first is read.\n'
            '[[clusters]]\nname = "dev"\n'
        ) in text
        assert (
            "\n1 of them has the same server as another one; if they are the same cluster, remove one of them "
            in output
        )

    @given(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True), st.text(min_size=1))
    def test_any_name_is_preserved(self, names: list[str], path: str):
        text = render(names, kubeconfig=f"/k/{path.replace(os.pathsep, '')}")
        loaded = config.parse(text, Path("gpuid.toml"))
        assert [cluster.context for cluster in loaded.clusters] == names
        printable = [name for name in names if name.isprintable()]
        assert [cluster.name for cluster in loaded.clusters if cluster.context in printable] == printable

    @given(st.lists(st.text(min_size=1), max_size=6, unique=True), st.lists(st.text(min_size=1), max_size=6))
    def test_names_are_unique(self, contexts: list[str], taken: list[str]):
        names = cluster_names(contexts, taken)
        assert list(names) == contexts
        assert len({*names.values(), *taken}) == len(names) + len(set(taken))

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
        assert "  gpuid check -c 'a b.toml'    checks every cluster\n" in init("-f", "a b.toml").stdout

    def test_a_dash_is_standard_output(self, here: Path):
        result = init("-f", "-")
        assert [cluster.context for cluster in config.parse(result.stdout, Path("x")).clusters] == ODD
        assert result.stderr.startswith("Found 5 contexts:\n")
        assert list(here.iterdir()) == []

    def test_terminal_control_characters_in_names_are_escaped(self, here: Path):
        names = ["\x1b[31mred", "a\nb", "\u202eevil", "\x9b2J", "\U000e0001tag"]
        kubeconfig(here / "hostile", names)
        for output in ("-", "x.toml", "\x1b[31m.toml"):
            result = init("--kubeconfig", "hostile", "-f", output)
            assert (result.stdout + result.stderr).replace("\n", "").isprintable()
            written = result.stdout if output == "-" else (here / output).read_text()
            assert [cluster.context for cluster in config.parse(written, Path("x")).clusters] == names
        assert r"  a\nb" in init("--kubeconfig", "hostile", "-f", "y.toml").stdout.splitlines()

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

    def test_an_unknown_context_lists_the_known_ones(self, here: Path):
        result = init("--context", "gke_projekt")
        assert result.exit_code == 2
        assert result.stderr.startswith('gpuid: --context: no context "gke_projekt"; there are arn:aws:eks:')
        assert "gke_project_" in result.stderr
        assert ARN in result.stderr
        assert list(here.iterdir()) == []

    def test_invalid_contexts_are_omitted_with_the_reason(self, here: Path):
        (here / "mixed").write_text(
            "clusters: [{name: c, cluster: {server: https://c}}]\n"
            "contexts: [{name: good, context: {cluster: c}}, {name: bad, context: {cluster: 5}}]\n"
        )
        result = init("--kubeconfig", "mixed")
        assert result.exit_code == 0
        assert [cluster.context for cluster in config.load(here / "gpuid.toml").clusters] == ["good"]
        reason = f'context "bad" in {here}/mixed: context "bad": cluster: expected text, got a number; put it in quotes'
        assert f"Skipped: {reason}\n" in result.stdout
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

    def test_a_missing_folder_is_one_line_and_exit_2(self, here: Path):
        result = init("-f", "absent/gpuid.toml")
        assert (result.exit_code, result.output) == (2, "gpuid: absent/gpuid.toml: no such file or directory\n")


class Fleet:
    """A simulated cluster for each of some shapes, and the command in the folder of an own kubeconfig."""

    def __init__(self, simulator: Simulator, portal: BlockingPortal, run: Run, folder: Path) -> None:
        self._simulator, self._portal, self._run = simulator, portal, run
        self.config = folder / "gpuid.toml"
        self.kubeconfig = simulator.kubeconfig

    def act(self, name: str, action: str, *args: Any) -> None:
        self._portal.call(getattr(self._simulator.clusters[name], action), *args)

    def url(self, name: str) -> str:
        return self._simulator.clusters[name].url

    def init(self, *args: str | Path) -> subprocess.CompletedProcess[str]:
        return self._run("init", "--kubeconfig", self.kubeconfig, "-f", self.config, *args)

    def check(self) -> subprocess.CompletedProcess[str]:
        return self._run("check", "-c", self.config)


@pytest.fixture
def fleet(tmp_path: Path, gpuid: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Clusters sim-0 (GPU operator), sim-1 (the chart in a namespace that no preset names) and sim-2 (GKE)."""
    shapes = {**SHAPES, "elsewhere": SHAPES["helm"]._replace(name="elsewhere", namespace="nvidia")}
    monkeypatch.setattr("collector.simulator.simulator.SHAPES", shapes)
    simulator = Simulator(clusters=3, nodes=2, gpus=2, latency=0.001, shapes=["gpu-operator", "elsewhere", "gke"])
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(simulator):
        yield Fleet(simulator, portal, gpuid, tmp_path)


class TestAsking:
    def test_each_cluster_gets_fitting_settings_ready_to_run(self, fleet: Fleet):
        result = fleet.init()
        assert (result.returncode, result.stderr) == (0, "")
        sources = (
            'sources = [{ namespace = "nvidia", selector = "app.kubernetes.io/name=nvidia-device-plugin", container ='
            ' "nvidia-device-plugin-ctr" }]'
        )
        covered = "2 of 2 GPU nodes covered by pods of"
        pods = "can create pods in namespace nvidia, which no preset uses: its pods determine which GPUs are reported"
        assert result.stdout.splitlines()[:4] == [
            "Found 3 contexts:",
            f'  sim-0: preset = "gpu-operator": {covered} nvidia-device-plugin in namespace gpu-operator',
            f"  sim-1: {sources}: {covered} nvidia-device-plugin-ctr in namespace nvidia; make sure that only"
            f" administrators {pods}",
            f'  sim-2: preset = "gke": {covered} nvidia-gpu-device-plugin in namespace kube-system',
        ]
        text = fleet.config.read_text().replace("\n# ", " ")
        assert (
            f" {covered} nvidia-device-plugin-ctr in namespace nvidia. Make sure that only administrators {pods}.\n"
            f'[[clusters]]\nname = "sim-1"\ncontext = "sim-1"\n{sources}\n'
        ) in text
        checked = fleet.check()
        assert checked.returncode == 0, checked.stdout
        assert "3 of 3 clusters are ready." in checked.stdout

    def test_an_unreachable_cluster_keeps_the_default_with_a_reason(self, fleet: Fleet):
        fleet.act("sim-0", "stop")
        fleet.act("sim-2", "freeze_connections", True)
        result = fleet.init("--timeout", "3s", "--context", "sim-0", "--context", "sim-2")
        assert (result.returncode, result.stderr) == (0, "")
        lost = f"{fleet.url('sim-0')}: connection refused"
        silent = "no answer within 3 s while looking for GPU nodes"
        _found, first, second, *_ = result.stdout.splitlines()
        assert first == f"  sim-0: could not be asked and keeps the default preset: {lost}"
        assert second == f"  sim-2: could not be asked and keeps the default preset: {silent}"
        text = fleet.config.read_text()
        for reason, name in ((lost, "sim-0"), (silent, "sim-2")):
            assert (
                f"# Could not be asked: {reason}.\n"
                "# It keeps the default preset; `gpuid check` suggests what fits.\n"
                f'[[clusters]]\nname = "{name}"\ncontext = "{name}"\n'
            ) in text
        presets = [cluster.preset for cluster in config.load(fleet.config).clusters]
        assert presets == ["gpu-operator", "gpu-operator"]

    def test_a_missing_right_and_an_uncovered_node_are_in_the_comments(self, fleet: Fleet):
        fleet.act("sim-0", "deny", "list", "pods", "")
        fleet.act("sim-0", "remove_pod", "gpu-0001")
        result = fleet.init("--context", "sim-0")
        comments = " ".join(
            line.removeprefix("# ")
            for line in fleet.config.read_text().partition("dashboards.\n")[2].splitlines()
            if line.startswith("# ")
        )
        assert comments.startswith(
            "1 of 2 GPU nodes covered by pods of nvidia-device-plugin in namespace gpu-operator. 1 GPU node without"
            " a known GPU pod seen: gpu-0001. To search other namespaces, run gpuid check or gpuid init as a user"
            " who may list pods in all namespaces. May not list pods in all namespaces: searched only gpu-operator, "
        )
        assert "1 GPU node without a known GPU pod seen: gpu-0001; may not list pods in all namespaces" in result.stdout

    def test_offline_no_cluster_is_contacted(self, fleet: Fleet):
        result = fleet.init("--offline")
        assert result.stdout.startswith("Found 3 contexts:\n  sim-0\n  sim-1\n  sim-2\nWrote ")
        assert not any(sum(one.counters.responses.values()) for one in fleet._simulator.clusters.values())
        assert "\n\n[[clusters]]\n" in fleet.config.read_text()

    def test_comments_contain_no_credentials(self, fleet: Fleet):
        for name in ("sim-0", "sim-1", "sim-2"):
            fleet.act(name, "refuse_tokens")
        result = fleet.init()
        assert result.stdout.count("unauthorized") == 3
        for entry in yaml.safe_load(fleet.kubeconfig.read_text())["users"]:
            assert entry["user"]["token"] not in fleet.config.read_text() + result.stdout

    def test_an_output_error_is_reported_before_any_request(self, fleet: Fleet):
        fleet.config.write_text("mine")
        assert fleet.init().returncode == 2
        assert fleet.init("-f", fleet.config.with_name("absent") / "x.toml").returncode == 2
        assert not any(sum(one.counters.responses.values()) for one in fleet._simulator.clusters.values())

    def test_ctrl_c_while_asking_writes_nothing(self, fleet: Fleet):
        fleet.act("sim-2", "freeze_connections", True)
        with Terminal("init", "--kubeconfig", fleet.kubeconfig, "-f", fleet.config, env={"NO_COLOR": "1"}) as terminal:
            terminal.until("2/3 ")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.end() == 130
        assert "asking clusters" in terminal.text
        assert "Traceback" not in terminal.text
        assert "Wrote" not in terminal.text
        assert not fleet.config.exists()

    def test_the_progress_bar_disappears_at_the_end(self, fleet: Fleet):
        with Terminal("init", "--kubeconfig", fleet.kubeconfig, "-f", fleet.config, env={"NO_COLOR": "1"}) as terminal:
            assert terminal.end() == 0
        assert "3/3 " in terminal.text
        assert "Found 3 contexts:" in terminal.text[terminal.text.rindex("3/3 ") :]


MINE = b"""# mine
[defaults]
refresh = "2h"   # odd   spacing

[store]
url = "sqlite:///mine.db"

[[clusters]]
context = "c01"  # the first one
kubeconfig = "KUBECONFIG"

[sinks.log]
type = "stdout\""""


class TestAdding:
    @pytest.fixture
    def file(self, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A configuration with the context c01 of a kubeconfig with three contexts."""
        path = kubeconfig(tmp_path / "three", ["c00", "c01", "c02"])
        monkeypatch.setenv("KUBECONFIG", str(path))
        (here / "gpuid.toml").write_bytes(MINE.replace(b"KUBECONFIG", str(path).encode()))
        return here / "gpuid.toml"

    @pytest.mark.parametrize("text", ["", '[server]\nlisten = "127.0.0.1:8081"\n'])
    def test_a_file_without_clusters_gets_its_first_ones(self, file: Path, text: str):
        file.write_text(text)
        result = init("--add")
        assert result.exit_code == 0, result.output
        assert [cluster.context for cluster in config.load(file).clusters] == ["c00", "c01", "c02"]

    def test_missing_clusters_are_added_and_the_rest_is_kept(self, file: Path, tmp_path: Path):
        before = file.read_bytes()
        file.chmod(0o640)
        result = init("--add")
        assert (result.exit_code, result.output) == (
            0,
            "Found 2 contexts:\n  c00\n  c02\nAdded 2 clusters to gpuid.toml. Next:\n"
            "  gpuid check    checks every cluster\n  gpuid run      collects and serves\n",
        )
        after = file.read_bytes()
        assert after.startswith(before)
        path = tmp_path / "three"
        assert after[len(before) :].decode() == (
            f'\n\n[[clusters]]\nname = "c00"\ncontext = "c00"\nkubeconfig = "{path}"\n'
            f'\n[[clusters]]\nname = "c02"\ncontext = "c02"\nkubeconfig = "{path}"\n'
        )
        assert [cluster.context for cluster in config.load(file).clusters] == ["c01", "c00", "c02"]
        assert [one.name for one in file.parent.iterdir()] == ["gpuid.toml"]
        assert file.stat().st_mode & 0o777 == 0o640
        assert init("--add").output == "Nothing to add: gpuid.toml already has all of these contexts.\n"
        assert file.read_bytes() == after

    def test_the_default_kubeconfig_is_not_repeated(self, here: Path, tmp_path: Path):
        init("--context", ARN)
        before = (here / "gpuid.toml").read_text()
        assert init("--add", "--context", "g*").exit_code == 0
        context = "gke_project_europe-west4-a_prod"
        assert (here / "gpuid.toml").read_text() == (
            f'{before}\n[[clusters]]\nname = "{context}"\ncontext = "{context}"\n'
        )

    def test_without_another_the_default_kubeconfig_is_read(
        self, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        init("--context", ARN)
        monkeypatch.delenv("KUBECONFIG")
        monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
        assert init("--add").exit_code == 0
        assert set(contexts(here / "gpuid.toml")) == set(ODD)

    def test_the_same_context_in_two_kubeconfigs_is_two_clusters(self, file: Path, here: Path):
        kubeconfig(here / "other", ["c01"])
        assert init("--add", "--kubeconfig", "other").exit_code == 0
        clusters = [(cluster.name, cluster.kubeconfig) for cluster in config.load(file).clusters]
        assert clusters[1] == ("c01-2", str(here / "other"))

    def test_symbolic_links_and_line_endings_are_preserved(self, file: Path, here: Path):
        real = here / "real.toml"
        real.write_bytes(file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
        file.unlink()
        file.symlink_to(real)
        assert init("--add").exit_code == 0
        assert file.is_symlink()
        assert b"\n" not in real.read_bytes().replace(b"\r\n", b"")
        assert len(contexts(file)) == 3

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[[clusters", "gpuid.toml: "),
            (
                "clusters = [{context = 'x'}]",
                "(after appending [[clusters]] tables; write the existing clusters as [[clusters]] tables, too)",
            ),
            (None, "gpuid.toml: no such file or directory"),
        ],
    )
    def test_an_unusable_file_is_one_line_and_unchanged(self, file: Path, text: str | None, message: str):
        file.unlink()
        if text is not None:
            file.write_text(text)
        result = init("--add")
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert (file.read_text() if file.exists() else None) == text

    @pytest.mark.parametrize("other", [["--force"], ["--listen", ":1"], ["-f", "-"]])
    def test_conflicting_options_are_refused(self, file: Path, other: list[str]):
        result = init("--add", *other)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"--add cannot be used with {'-f -' if other[0] == '-f' else other[0]}" in result.stderr

    def test_a_file_that_changed_meanwhile_is_not_overwritten(self, file: Path, monkeypatch: pytest.MonkeyPatch):
        def ask(*_: object) -> dict[str, object]:
            file.write_bytes(file.read_bytes() + b"\n# by somebody else\n")
            return {}

        monkeypatch.setattr("collector.cli.init._ask", ask)
        result = CliRunner().invoke(gpuid, ["init", "--add"])
        assert (result.exit_code, result.stderr) == (
            2,
            "gpuid: gpuid.toml: changed in the meantime; try again\n",
        )
        assert file.read_text().endswith("# by somebody else\n")

    def test_existing_settings_are_used_and_clusters_get_fitting_ones(self, fleet: Fleet):
        fleet.init("--context", "sim-0", "--offline")
        text = fleet.config.read_text().replace('# node_selector = ""', 'node_selector = "kubernetes.io/os=linux"')
        fleet.config.write_text(text)
        result = fleet.init("--add")
        assert (result.returncode, result.stderr) == (0, "")
        added = fleet.config.read_text().removeprefix(text)
        assert added.count("# 2 of 2 GPU nodes covered by pods of") == 2
        assert 'context = "sim-2"\npreset = "gke"\n' in added


class TestWriting:
    def test_a_file_keeps_its_mode_and_failures_leave_nothing(self, here: Path, monkeypatch: pytest.MonkeyPatch):
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", fail)
        result = init()
        assert (result.exit_code, result.output) == (2, "gpuid: gpuid.toml: no space left on device\n")
        assert list(here.iterdir()) == []
        (here / "gpuid.toml").write_text("mine")
        assert init("--force").exit_code == 2
        assert [path.read_text() for path in here.iterdir()] == ["mine"]

    def test_special_files_are_written_to(self, here: Path):
        os.mkfifo(here / "pipe")
        read = os.open(here / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        assert init("--force", "-f", "pipe").exit_code == 0
        assert b"[[clusters]]" in os.read(read, 65536)
        os.close(read)

    @pytest.mark.parametrize(
        ("output", "store"),
        [("eu.toml", "eu.db"), ("a b%?.toml", "a b%25%3F.db"), ("-", "gpuid.db"), ("x/gpuid.toml", "x/gpuid.db")],
    )
    def test_each_configuration_has_its_own_store_next_to_it(self, here: Path, output: str, store: str):
        (here / "x").mkdir()
        result = init("-f", output)
        text = result.stdout if output == "-" else (here / output).read_text()
        settings = config.parse(text, here / "x").store
        assert settings is not None
        assert settings.url == f"sqlite://{here}/{store}"
        assert locate(settings.url) == (here / store.replace("%25", "%").replace("%3F", "?"),)

    def test_under_etc_the_store_is_in_the_data_folder(self):
        assert store_url(Path("/etc/gpuid/eu.toml")) == "sqlite:///var/lib/gpuid/eu.db"
        assert store_url(Path("/nowhere/../etc/eu.toml")) == "sqlite:///var/lib/gpuid/eu.db"
        assert store_url(Path("/nowhere/x/../eu.toml")) == "sqlite:///nowhere/eu.db"

    def test_it_listens_on_the_given_address(self, here: Path):
        init("--listen", "[::1]:9")
        assert str(config.load(here / "gpuid.toml").server.listen) == "[::1]:9"
