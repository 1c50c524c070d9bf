"""`gpuid grant`: what is printed, and what is refused; on real clusters: tests/control_plane/test_grant.py."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner, Result

from collector.cli import gpuid
from collector.cli.errors import CommandError
from collector.cli.grant import _hand_out, _shortened
from collector.grant.contexts import CollectorContext
from collector.kube.token_request import MadeToken
from collector.simulator import Simulator
from collector.timestamps import rfc3339

Grant = Callable[..., Result]


def clusters(*names: str, more: str = "") -> str:
    return "".join(f'[[clusters]]\ncontext = "ctx-{name}"\nname = "{name}"\n{more}' for name in names)


@pytest.fixture
def grant(tmp_path: Path) -> Grant:
    """Run `gpuid grant` with a configuration, whose kubeconfig does not exist unless it names one."""

    def run(toml: str, *args: str | Path) -> Result:
        config = tmp_path / "gpuid.toml"
        defaults = "" if "[defaults]" in toml else f'[defaults]\nkubeconfig = "{tmp_path / "nowhere"}"\n'
        config.write_text(defaults + toml)
        return CliRunner().invoke(gpuid, ["grant", "-c", str(config), *map(str, args)])

    return run


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    simulator = Simulator(clusters=1, nodes=1, gpus=1, latency=0.0)
    with start_blocking_portal("asyncio") as portal, portal.wrap_async_context_manager(simulator):
        yield simulator


def kinds(output: str) -> list[str]:
    return [document["kind"] for document in yaml.safe_load_all(output)]


class TestPrinting:
    def test_no_cluster_is_contacted(self, grant: Grant):
        result = grant(clusters("prod"))
        assert result.exit_code == 0
        assert kinds(result.stdout).count("Role") == 2

    @pytest.mark.parametrize("name", ["prod", "ctx-prod"])
    def test_a_cluster_goes_by_its_name_or_context(self, grant: Grant, name: str):
        assert grant(clusters("dev", "prod"), name).stdout.startswith("# The rights of gpuid in prod.\n")

    def test_clusters_with_the_same_rights_are_printed_once(self, grant: Grant):
        result = grant(clusters("dev", "prod"))
        assert result.stdout.startswith("# The rights of gpuid in dev, prod.\n")
        assert kinds(result.stdout).count("Namespace") == 1

    def test_clusters_with_different_rights_must_be_named(self, grant: Grant):
        result = grant(clusters("dev") + clusters("prod", more='preset = "gke"\n'))
        assert result.exit_code == 2
        assert result.stderr == ("gpuid: dev and prod need different rights; name one cluster, or use --apply\n")

    def test_a_right_can_be_omitted(self, grant: Grant):
        printed = kinds(grant(clusters("prod"), "--no-renewal", "--without-policy").stdout)
        assert printed == ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]

    def test_a_pod_s_own_cluster_can_be_printed_alone(self, grant: Grant):
        toml = '[[clusters]]\nname = "here"\nin_cluster = true\n'
        assert grant(toml).exit_code == 0
        result = grant(toml, "--apply")
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert "here: in_cluster has no context" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nope"], 'no cluster "nope"'),
        (["pod"], 'no cluster "pod"; did you mean "prod"?'),
        (["prod", "--all"], "expected either clusters or --all"),
        (["--apply"], "expected names of clusters, or --all; there are dev, prod"),
        (["--revoke", "--yes"], "expected names of clusters, or --all"),
        (["--kubeconfig", "x"], "expected names of clusters, or --all"),
        (["--apply", "--check"], "expected one of --apply, --check and --revoke"),
        (["--check", "--secret"], "--check: expected neither --kubeconfig nor --secret"),
        (["--all", "--secret", "--kubeconfig", "x"], "expected either --kubeconfig or --secret"),
        (["--all", "--secret", "--duration", "5m"], "must be at least 10m"),
        (["prod", "--revoke"], "--revoke: expected --yes"),
    ],
)
def test_bad_input_is_one_line(grant: Grant, args: list[str], words: str):
    result = grant(clusters("dev", "prod"), *args)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert words in result.stderr


def test_two_clusters_of_one_context_have_one_set_of_rights(grant: Grant):
    toml = '[[clusters]]\ncontext = "x"\nname = "a"\n[[clusters]]\ncontext = "x"\nname = "b"\n'
    result = grant(toml, "--apply", "--all")
    assert result.exit_code == 2
    assert "a and b have the same context" in result.stderr


def test_duplicate_context_names_are_refused_before_any_request(grant: Grant, tmp_path: Path):
    toml = "".join(
        f'[[clusters]]\ncontext = "x"\nname = "{name}"\nkubeconfig = "{tmp_path / name}"\n' for name in ("a", "b")
    )
    result = grant(toml, "--all", "--kubeconfig", tmp_path / "k")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "a and b have contexts of the same name in two kubeconfigs" in result.stderr


def test_a_secret_that_kubernetes_would_not_store_is_not_printed(capsys: pytest.CaptureFixture[str]):
    contexts = [
        CollectorContext(f"c{number}", {"server": "https://x"}, MadeToken(text="t" * 4000)) for number in range(300)
    ]
    with pytest.raises(CommandError, match="exceed the 1 MiB that Kubernetes stores"):
        _hand_out(contexts, [], None)
    assert capsys.readouterr().out == ""


def test_the_printed_rights_name_their_limits(grant: Grant):
    printed = grant(clusters("prod")).stdout
    assert "If kubectl rejects them, nothing limits pods/exec" in printed
    assert "For others (such as GKE), pass --audience" in printed
    reader = grant(clusters("prod", more='preset = "reader"\n'), "--audience", "https://x", "--duration", "1h").stdout
    assert "kubectl rejects" not in reader
    assert "pass --audience" not in reader
    assert 'audience in ["https://x"]' in reader
    assert "expirationSeconds <= 3600" in reader


def test_a_context_that_cannot_be_used_is_one_line(grant: Grant):
    result = grant(clusters("prod"), "--apply")
    assert result.exit_code == 1
    assert result.stderr.startswith("gpuid: prod: ")
    assert result.stderr.count("\n") == 1


def test_an_unwritable_file_is_reported_before_any_request(grant: Grant, tmp_path: Path):
    (tmp_path / "kubeconfig").write_text("[]")
    result = grant(clusters("prod"), "--apply", "--kubeconfig", tmp_path / "kubeconfig")
    assert result.exit_code == 2
    assert result.stderr == f"gpuid: {tmp_path}/kubeconfig: not a kubeconfig; choose another file\n"


class TestServerWithoutPolicies:
    """The simulator has no admission policies, as Kubernetes before 1.30."""

    def toml(self, simulator: Simulator) -> str:
        (name,) = simulator.clusters
        return f'[defaults]\nkubeconfig = "{simulator.kubeconfig}"\n[[clusters]]\nname = "prod"\ncontext = "{name}"\n'

    @pytest.mark.parametrize("action", ["--apply", "--check"])
    def test_exec_is_refused_with_the_remedies(self, grant: Grant, simulator: Simulator, action: str):
        result = grant(self.toml(simulator), action)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        for words in ("prod: ", "no ValidatingAdmissionPolicy", 'method = "log"', "upgrade", "--without-policy"):
            assert words in result.stderr

    def test_a_secret_that_would_lack_a_cluster_is_not_printed(self, grant: Grant, simulator: Simulator):
        result = grant(self.toml(simulator), "--apply", "--secret")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "--secret: not printed, because prod would be missing from it" in result.stderr


@pytest.mark.parametrize(
    ("left", "words"), [(3600.0, ""), (3590.0, ""), (1800.0, " (shortened by the server)"), (-1.0, " (shortened")]
)
def test_a_token_that_the_server_shortened_says_so(left: float, words: str):
    text = _shortened(rfc3339(time.time() + left, "seconds"), 3600)
    assert text.startswith(words)
    assert bool(text) == bool(words)
