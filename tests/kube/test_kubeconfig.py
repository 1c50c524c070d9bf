"""Which contexts kubeconfigs hold and what one of them says."""

import os

import pytest
import yaml

from collector import config
from collector.config import ConfigError
from collector.kube import kubeconfig
from collector.kube.errors import BadContextError

EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./bin/aws", "interactiveMode": "Never"}


def write(path, *, clusters=(), users=(), contexts=(), **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "clusters": [{"name": name, "cluster": value} for name, value in dict(clusters).items()],
        "users": [{"name": name, "user": value} for name, value in dict(users).items()],
        "contexts": [{"name": name, "context": value} for name, value in dict(contexts).items()],
    }
    path.write_text(yaml.safe_dump(document | more))
    return str(path)


@pytest.fixture
def two(tmp_path):
    """Write two files that belong together: the first names what the second holds."""
    first = write(
        tmp_path / "a/config",
        clusters={"east": {"server": "https://east", "certificate-authority": "ca.crt"}},
        users={"robot": {"token": "s3cr3t-a"}},
        contexts={
            "prod-east": {"cluster": "east", "user": "aws", "namespace": "gpus"},
            "prod-west": {"cluster": "west", "user": "robot"},
        },
        **{"current-context": "prod-east"},
    )
    second = write(
        tmp_path / "b/config",
        clusters={"east": {"server": "https://other"}, "west": {"server": "https://west"}},
        users={"robot": {"token": "s3cr3t-b"}, "aws": {"exec": EXEC, "client-key": "aws.key", "tokenFile": "/run/t"}},
        contexts={"lone": {"cluster": "west"}},
        **{"current-context": "lone"},
    )
    return os.pathsep.join((first, second))


def test_contexts_tell_what_a_person_chooses_by(two):
    found = kubeconfig.contexts(two)
    assert list(found) == ["prod-east", "prod-west", "lone"]
    assert found["prod-east"] == kubeconfig.Context(
        name="prod-east",
        cluster="east",
        server="https://east",
        namespace="gpus",
        user="token file",
        current=True,
    )
    assert found["prod-west"].user == "token"
    assert (found["lone"].user, found["lone"].namespace, found["lone"].current) == ("none", "default", False)


@pytest.mark.parametrize(
    ("user", "kind"),
    [
        ({"exec": EXEC}, "exec: aws"),
        ({"token": "s3cr3t"}, "token"),
        ({"username": "me", "password": "s3cr3t"}, "basic"),
        ({"client-certificate-data": "eA==", "client-key-data": "eA=="}, "client certificate"),
        ({"auth-provider": {"name": "oidc", "config": {}}}, "auth-provider: oidc"),
        ({}, "none"),
    ],
)
def test_each_way_to_authenticate_has_a_name(tmp_path, user, kind):
    path = write(
        tmp_path / "config",
        clusters={"c": {"server": "https://c"}},
        users={"u": user},
        contexts={"x": {"cluster": "c", "user": "u"}},
    )
    assert kubeconfig.contexts(path)["x"].user == kind


def test_of_two_entries_of_one_name_the_first_counts(two):
    assert kubeconfig.find("prod-west", two).user.token == "s3cr3t-a"
    assert kubeconfig.find("prod-east", two).cluster.server == "https://east"


def test_paths_are_relative_to_their_file(two, tmp_path):
    info = kubeconfig.find("prod-east", two)
    assert info.cluster.certificate_authority == str(tmp_path / "a/ca.crt")
    assert info.user.client_key == str(tmp_path / "b/aws.key")
    assert info.user.token_file == "/run/t"
    assert info.folder == str(tmp_path / "b")
    assert info.where == f'context "prod-east" in {tmp_path}/a/config'
    assert info.source_files == (
        *two.split(os.pathsep),
        str(tmp_path / "a/ca.crt"),
        str(tmp_path / "b/aws.key"),
    )


def test_without_paths_the_environment_names_the_files(two, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", two)
    assert set(kubeconfig.contexts(None)) == {"prod-east", "prod-west", "lone"}
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / ".kube/config", contexts={"home": {"cluster": "c"}})
    assert set(kubeconfig.contexts(None)) == {"home"}


def test_missing_and_empty_files_are_skipped(two, tmp_path):
    (tmp_path / "empty").touch()
    paths = os.pathsep.join((str(tmp_path / "absent"), str(tmp_path / "empty"), two))
    assert len(kubeconfig.contexts(paths)) == 3


def test_a_changed_file_is_read_again(tmp_path):
    path = write(tmp_path / "config", contexts={"before": {"cluster": "c"}})
    assert set(kubeconfig.contexts(path)) == {"before"}
    write(tmp_path / "config", contexts={"afterwards": {"cluster": "c"}})
    assert set(kubeconfig.contexts(path)) == {"afterwards"}


def test_null_lists_and_unknown_keys_are_ignored(tmp_path):
    path = tmp_path / "config"
    path.write_text("clusters: null\nusers:\ncontexts: []\npreferences: {colors: true}\n")
    assert kubeconfig.contexts(str(path)) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("users: [", "not valid YAML (line 2)"),
        ("users:\n- name: u\n  user: {token: s3cr3t", "not valid YAML (line 4)"),
        ("\ttoken: s3cr3t", "not valid YAML (line 1)"),
        ("just a text", "not a kubeconfig: expected clusters, contexts and users"),
        (
            "users: [{name: u, user: {token: 12345678}}]",
            "not a kubeconfig: Expected `str`, got `int` - at `$.users[0].user.token`",
        ),
    ],
)
def test_an_invalid_kubeconfig_is_refused_without_quoting_it(tmp_path, text, message):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(BadContextError) as caught:
        kubeconfig.contexts(str(path))
    assert str(caught.value) == f"{path}: {message}"


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "config"
    path.write_bytes(b"\xff\xfe\x00\x80\x81")
    with pytest.raises(BadContextError, match="not valid YAML"):
        kubeconfig.contexts(str(path))


def test_absent_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(BadContextError) as caught:
        kubeconfig.contexts(str(tmp_path / "absent"))
    assert str(caught.value) == f"{tmp_path}/absent: no such file or directory"
    with pytest.raises(BadContextError) as caught:
        kubeconfig.contexts(str(tmp_path))
    assert str(caught.value) == f"{tmp_path}: is a directory"


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"cluster": "absent"}, 'there is no cluster "absent"'),
        ({"cluster": "c", "user": "absent"}, 'there is no user "absent"'),
        ({"cluster": "empty"}, 'cluster "empty" names no server'),
        (None, 'there is no cluster ""'),
    ],
)
def test_a_context_that_leads_nowhere_is_named_with_its_file(tmp_path, context, message):
    path = write(
        tmp_path / "config",
        clusters={"c": {"server": "https://c"}, "empty": {}},
        contexts={"x": context},
    )
    with pytest.raises(BadContextError) as caught:
        kubeconfig.find("x", path)
    assert str(caught.value) == f'context "x" in {path}: {message}'


def test_nothing_of_a_user_shows_in_a_repr(two):
    assert "s3cr3t" not in repr(kubeconfig.find("prod-west", two))


class TestCheck:
    def test_contexts_that_exist_pass(self, two):
        kubeconfig.check(
            [
                config.ClusterSettings(context="prod-east", kubeconfig=two),
                config.ClusterSettings(name="here", in_cluster=True),
                config.ClusterSettings(context="lone", kubeconfig=two),
            ]
        )

    def test_an_unknown_context_suggests_the_nearest_names(self, two):
        clusters = [
            config.ClusterSettings(name="here", in_cluster=True),
            config.ClusterSettings(context="prod-wst", kubeconfig=two),
        ]
        with pytest.raises(ConfigError) as caught:
            kubeconfig.check(clusters)
        assert str(caught.value) == (
            f'clusters[1].context: no context "prod-wst" in {two}; there are: prod-west, prod-east, lone'
        )

    def test_at_most_ten_contexts_are_listed(self, tmp_path):
        path = write(tmp_path / "config", contexts={f"c{number:02}": {"cluster": "c"} for number in range(30)})
        with pytest.raises(ConfigError) as caught:
            kubeconfig.check([config.ClusterSettings(context="c0", kubeconfig=path)])
        assert str(caught.value).endswith("there are: c00, c01, c02, c03, c04, c05, c06, c07, c08, c09")

    def test_an_unreadable_kubeconfig_is_refused_by_its_key(self, tmp_path):
        with pytest.raises(ConfigError) as caught:
            kubeconfig.check([config.ClusterSettings(context="x", kubeconfig=str(tmp_path / "absent"))])
        assert str(caught.value) == f"clusters[0].kubeconfig: {tmp_path}/absent: no such file or directory"


class TestInCluster:
    @pytest.mark.parametrize(
        ("host", "server"), [("10.96.0.1", "https://10.96.0.1:443"), ("fd00::1", "https://[fd00::1]:443")]
    )
    def test_the_service_account_is_used(self, monkeypatch, host, server):
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
        info = kubeconfig.in_cluster()
        assert info.cluster.server == server
        assert info.user.token_file == "/var/run/secrets/kubernetes.io/serviceaccount/token"
        assert info.source_files == ("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",)

    def test_outside_of_a_pod_it_is_an_error(self, monkeypatch):
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        with pytest.raises(BadContextError, match="is this a pod"):
            kubeconfig.in_cluster()
