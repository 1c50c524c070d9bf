"""Which contexts kubeconfigs contain, and the settings of one."""

import os

import pytest
import yaml

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


def test_contexts_show_what_helps_to_choose_one(two):
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


def test_the_first_of_two_entries_with_one_name_wins(two):
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
    path.write_text("clusters: null\nusers:\ncontexts: [{name: x}]\npreferences: {colors: true}\n")
    assert kubeconfig.contexts(str(path))["x"].problem == f'context "x" in {path}: no cluster ""'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("users: [", "not valid YAML (line 2)"),
        ("users:\n- name: u\n  user: {token: s3cr3t", "not valid YAML (line 4)"),
        ("\ttoken: s3cr3t", "not valid YAML (line 1)"),
        ("just a text", "not a kubeconfig: expected clusters, contexts and users"),
        ("[s3cr3t]", "not a kubeconfig: expected clusters, contexts and users"),
        ("\n<!DOCTYPE html><html>s3cr3t</html>", "not a kubeconfig but an HTML or XML page"),
        ("kind: Deployment", "not a kubeconfig: it is a Deployment; expected kind: Config"),
        ("kind: [Config]", "not a kubeconfig: it is something else; expected kind: Config"),
        ("", "no contexts (the file is empty)"),
        ("# nothing\n", "no contexts (the file is empty)"),
        ("kind: Config", "no contexts"),
        ("contexts: {x: {}}", "no contexts (contexts: expected a list)"),
    ],
)
def test_an_invalid_kubeconfig_is_refused_without_quoting_it(tmp_path, text, message):
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(BadContextError) as caught:
        kubeconfig.contexts(str(path))
    assert str(caught.value) == f"{path}: {message}"


GOOD = """
clusters: [{name: c, cluster: {server: "https://c"}}]
users: [{name: u, user: {token: s3cr3t}}]
contexts: [{name: good, context: {cluster: c, user: u}}]
"""


def with_good(**lists):
    """Return a kubeconfig with the good context, and with more entries, each as YAML, before those that it needs."""
    text = GOOD
    for noun, entries in lists.items():
        text = text.replace(f"{noun}: [", f"{noun}: [{entries}, ")
    return text


class TestOneBadEntry:
    """An error in one entry affects only the contexts that need it."""

    @pytest.mark.parametrize(
        "text",
        [
            with_good(users="{name: odd, user: {token: 12345678}}"),
            with_good(
                users="{name: odd, user: {auth-provider: {name: gcp, config: {expiry: 2016-12-27T22:18:24.9Z}}}}"
            ),
            with_good(users="{name: odd, user: [s3cr3t]}"),
            with_good(users="{name: 12, user: {}}"),
            with_good(users="{user: {token: s3cr3t}}"),
            with_good(users="null"),
            with_good(users="s3cr3t"),
            with_good(clusters="{name: odd, cluster: {server: {{ .Values.server }}}}"),
            with_good(clusters="{name: odd, cluster: {insecure-skip-tls-verify: 'yes'}}"),
            with_good(clusters="{cluster: {server: x}}"),
            with_good(contexts="{name: odd, context: {cluster: 5}}"),
            with_good(contexts="{name: 2024, context: {cluster: c}}"),
            with_good(contexts="{context: {cluster: c}}"),
            with_good(contexts="[]"),
            f"{GOOD}current-context: 5\n",
            f"{GOOD}preferences: [s3cr3t]\n",
            f"{GOOD}---\nclusters: [",
        ],
    )
    def test_the_good_context_works(self, tmp_path, text):
        path = tmp_path / "config"
        path.write_text(text)
        assert kubeconfig.find("good", str(path)).user.token == "s3cr3t"
        assert kubeconfig.contexts(str(path))["good"].problem == ""

    @pytest.mark.parametrize(
        ("text", "context", "message"),
        [
            (
                with_good(contexts="{name: odd, context: {cluster: 5}}"),
                "odd",
                'context "odd": cluster: expected text, got a number; put it in quotes',
            ),
            (
                with_good(
                    contexts="{name: x, context: {cluster: odd}}", clusters="{name: odd, cluster: {server: [s3cr3t]}}"
                ),
                "x",
                'cluster "odd": server: expected text, got a list',
            ),
            (
                with_good(
                    contexts="{name: x, context: {cluster: c, user: odd}}",
                    users="{name: odd, user: {exec: {command: aws, args: [--id, 12]}}}",
                ),
                "x",
                'user "odd": exec.args[1]: expected text, got a number; put it in quotes',
            ),
            (
                with_good(contexts="{name: 2024, context: {cluster: c}}"),
                "2024",
                "contexts[0].name: expected text; put it in quotes",
            ),
        ],
    )
    def test_the_bad_one_is_named_with_its_file(self, tmp_path, text, context, message):
        path = tmp_path / "config"
        path.write_text(text)
        with pytest.raises(BadContextError) as caught:
            kubeconfig.find(context, str(path))
        assert str(caught.value) == f'context "{context}" in {path}: {message}'
        assert kubeconfig.contexts(str(path))[context].problem == str(caught.value)

    def test_an_entry_of_another_file_is_named_with_that(self, tmp_path):
        one, two = tmp_path / "one", tmp_path / "two"
        one.write_text("contexts: [{name: x, context: {cluster: c, user: u}}]")
        two.write_text("clusters: [{name: c, cluster: {server: 5}}]")
        with pytest.raises(BadContextError) as caught:
            kubeconfig.find("x", f"{one}:{two}")
        assert str(caught.value) == (
            f'context "x" in {one}: {two}: cluster "c": server: expected text, got a number; put it in quotes'
        )

    def test_an_unusable_name_is_reported_when_a_name_is_missing(self, tmp_path):
        path = tmp_path / "config"
        path.write_text(with_good(contexts="{name: [s3cr3t]}"))
        with pytest.raises(BadContextError) as caught:
            kubeconfig.find("x", str(path))
        assert str(caught.value) == (
            f'no context "x" in {path}; there are: good; {path}: contexts[0].name: expected text; put it in quotes'
        )

    @pytest.mark.parametrize("name", ["2024-06-01", "12:30", "1.20.3", "prod/eu:東京 (1)", "="])
    def test_names_that_look_like_other_types_are_text(self, tmp_path, name):
        path = tmp_path / "config"
        path.write_text(GOOD.replace("good", name), encoding="utf-8")
        assert kubeconfig.find(name, str(path)).user.token == "s3cr3t"

    @pytest.mark.parametrize(
        "entry",
        [
            "namespace: ",
            "namespace: null",
            "extensions: ~",
        ],
    )
    def test_nulls_are_empty(self, tmp_path, entry):
        path = tmp_path / "config"
        path.write_text(GOOD.replace("user: u}", f"user: u, {entry}}}"))
        assert kubeconfig.find("good", str(path)).user.token == "s3cr3t"
        assert kubeconfig.contexts(str(path))["good"].namespace == "default"

    def test_the_first_of_two_equal_names_in_a_file_wins(self, tmp_path):
        path = tmp_path / "config"
        path.write_text(with_good(users="{name: u, user: {token: s3cr3t-first}}"))
        assert kubeconfig.find("good", str(path)).user.token == "s3cr3t-first"


class TestOneBadFile:
    """An unreadable file affects only the contexts that it may contain."""

    @pytest.fixture
    def good(self, tmp_path):
        (tmp_path / "good").write_text(GOOD)
        return str(tmp_path / "good")

    @pytest.mark.parametrize("content", ["clusters: [s3cr3t", "<html>", "just a text", "kind: Pod", "\x00", None])
    @pytest.mark.parametrize("first", [True, False])
    def test_the_others_work(self, tmp_path, good, content, first):
        bad = tmp_path / "bad"
        bad.mkdir() if content is None else bad.write_text(content)
        paths = os.pathsep.join((str(bad), good) if first else (good, str(bad)))
        assert kubeconfig.find("good", paths).user.token == "s3cr3t"
        assert [one.problem for one in kubeconfig.contexts(paths).values()] == [""]

    def test_a_missing_context_may_be_in_the_bad_file(self, tmp_path, good):
        (tmp_path / "bad").write_text("clusters: [")
        with pytest.raises(BadContextError) as caught:
            kubeconfig.find("x", f"{good}:{tmp_path}/bad")
        assert str(caught.value) == (
            f'no context "x" in {good}:{tmp_path}/bad; there are: good; {tmp_path}/bad: not valid YAML (line 2)'
        )

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
    def test_an_entry_a_broken_file_may_contain_is_not_replaced(self, tmp_path, good, encoding):
        (tmp_path / "bad").write_text("contexts: [{name: good, ", encoding=encoding)
        paths = f"{tmp_path}/bad:{good}"
        with pytest.raises(BadContextError) as caught:
            kubeconfig.find("good", paths)
        assert str(caught.value) == f'{tmp_path}/bad: not valid YAML (line 2); "good" may be in it'
        assert kubeconfig.find("good", f"{good}:{tmp_path}/bad")

    def test_if_all_are_bad_the_first_says_why(self, tmp_path):
        for name in ("one", "two"):
            (tmp_path / name).write_text("clusters: [")
        with pytest.raises(BadContextError) as caught:
            kubeconfig.contexts(f"{tmp_path}/one:{tmp_path}/two")
        assert str(caught.value) == f"{tmp_path}/one: not valid YAML (line 2)"


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (":", 'KUBECONFIG ":" names no file'),
        ("::", 'KUBECONFIG "::" names no file'),
        ("~nobody-at-all/x", "kubeconfig ~nobody-at-all/x: there is no such home directory"),
    ],
)
def test_a_variable_that_names_no_file_is_reported(monkeypatch, variable, message):
    monkeypatch.setenv("KUBECONFIG", variable)
    with pytest.raises(BadContextError) as caught:
        kubeconfig.contexts(None)
    assert str(caught.value) == message


def test_an_invalid_path_is_reported():
    with pytest.raises(BadContextError, match="cannot be read"):
        kubeconfig.contexts("/a\0b")


def test_a_file_that_is_not_text_is_refused(tmp_path):
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
        ({"cluster": "absent"}, 'no cluster "absent"'),
        ({"cluster": "c", "user": "absent"}, 'no user "absent"'),
        ({"cluster": "empty"}, 'cluster "empty" has no server'),
        (None, 'no cluster ""'),
    ],
)
def test_a_context_with_missing_entries_is_named_with_its_file(tmp_path, context, message):
    path = write(
        tmp_path / "config",
        clusters={"c": {"server": "https://c"}, "empty": {}},
        contexts={"x": context},
    )
    with pytest.raises(BadContextError) as caught:
        kubeconfig.find("x", path)
    assert str(caught.value) == f'context "x" in {path}: {message}'


@pytest.mark.parametrize("long", ["\ufeffx", "\u202ey\n" * 10, "z" * 5000], ids=["mark", "direction", "length"])
def test_messages_about_missing_entries_fit_on_a_line(tmp_path, long):
    contexts = {"cluster": {"cluster": long}, "user": {"cluster": "c", "user": long}, "server": {"cluster": f"{long}."}}
    path = write(
        tmp_path / "config",
        clusters={"c": {"server": "https://c"}, f"{long}.": {}},
        contexts=contexts | {f"{number}{long}": {"cluster": "c"} for number in range(20)},
    )
    for context in [*contexts, "absent", f"{long}, absent"]:
        with pytest.raises(BadContextError) as caught:
            kubeconfig.find(context, path)
        assert path in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) <= 1000


def test_a_repr_shows_no_secret_of_a_user(two):
    assert "s3cr3t" not in repr(kubeconfig.find("prod-west", two))


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

    def test_outside_a_pod_it_is_an_error(self, monkeypatch):
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        with pytest.raises(BadContextError, match="is this a pod"):
            kubeconfig.in_cluster()
