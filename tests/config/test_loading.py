"""The configuration: what a file means, and the one line that a bad file is answered with."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.config import (
    PRESETS,
    ClusterSettings,
    Config,
    ConfigError,
    DefaultSettings,
    Duration,
    Listen,
    PodSource,
    Size,
    load,
    parse,
)

FILE = Path("/etc/gpuid/gpuid.toml")
CLUSTER = '[[clusters]]\ncontext = "prod"\n'
SOURCE = PodSource(namespace="gpus", selector="app=smi", container="smi", command=("nvidia-smi", "-q", "-x"))
HASH = "$2b$12$" + "a" * 53


def read(text: str) -> Config:
    return parse(text, FILE)


def first(text: str) -> ClusterSettings:
    return read(text).clusters[0]


def refusal(text: str) -> str:
    """The one line after the file's name."""
    with pytest.raises(ConfigError) as error:
        read(text)
    file, _, message = str(error.value).partition(": ")
    assert file == str(FILE)
    assert "\n" not in message
    return message


class TestMeaning:
    """What each key means, and what its absence means."""

    def test_one_context_is_a_whole_configuration(self) -> None:
        cluster = first(CLUSTER)
        assert (cluster.name, cluster.context, cluster.in_cluster, cluster.kubeconfig) == ("prod", "prod", False, None)
        assert (cluster.preset, cluster.sources, cluster.node_selector) == ("gpu-operator", (), "")
        assert (cluster.refresh, cluster.grace, cluster.exec_timeout) == (3600.0, 600.0, 30.0)
        assert (cluster.exec_concurrency, cluster.request_rate, cluster.request_burst) == (16, 100.0, 200)
        assert cluster.command is None
        config = read(CLUSTER)
        assert config.defaults == DefaultSettings()
        assert (config.server.listen, config.server.basic_auth) == ("0.0.0.0:8080", {})
        assert config.server.cert_file is config.server.key_file is config.server.client_ca_file is None
        assert config.server.bearer_token_file is None
        assert (config.metrics.cluster_label, config.metrics.node_labels) == ("cluster", ())

    def test_every_key_of_a_cluster_is_read(self) -> None:
        cluster = first(
            '[[clusters]]\nname = "east"\ncontext = "prod"\nkubeconfig = "/k"\nrefresh = "2h"\ngrace = "0s"\n'
            'command = ["smi"]\nexec_timeout = "5s"\nexec_concurrency = 4\nrequest_rate = 2.5\nrequest_burst = 9\n'
            'node_selector = "gpu=yes"\nsources = [{namespace = "gpus", selector = "app=smi", container = "smi"}]\n'
        )
        assert cluster == ClusterSettings(
            name="east",
            context="prod",
            kubeconfig="/k",
            refresh=Duration(7200),
            grace=Duration(0),
            command=("smi",),
            exec_timeout=Duration(5),
            exec_concurrency=4,
            request_rate=2.5,
            request_burst=9,
            node_selector="gpu=yes",
            sources=(msgspec.structs.replace(SOURCE, command=()),),
        )

    def test_every_key_of_the_server_and_the_metrics_is_read(self) -> None:
        config = read(
            '[server]\nlisten = "[::1]:0"\ntls_cert = "/c"\ntls_key = "/k"\n'
            'client_ca_file = "/a"\nbearer_token_file = "/t"\n'
            f'[server.basic_auth]\nbob = "{HASH}"\n'
            f'[metrics]\ncluster_label = "site"\nnode_labels = ["zone", "rack"]\n{CLUSTER}'
        )
        server, metrics = config.server, config.metrics
        assert (server.listen, server.cert_file, server.key_file) == ("[::1]:0", Path("/c"), Path("/k"))
        assert (server.client_ca_file, server.bearer_token_file) == (Path("/a"), Path("/t"))
        assert server.basic_auth == {"bob": HASH}
        assert (metrics.cluster_label, metrics.node_labels) == ("site", ("zone", "rack"))

    def test_the_name_of_a_cluster_defaults_to_its_context(self) -> None:
        config = read('[[clusters]]\ncontext = "a"\n[[clusters]]\ncontext = "b"\nname = "c"\n')
        assert [cluster.name for cluster in config.clusters] == ["a", "c"]

    def test_in_cluster_needs_no_context(self) -> None:
        cluster = first('[[clusters]]\nin_cluster = true\nname = "here"\n')
        assert (cluster.name, cluster.context, cluster.in_cluster) == ("here", None, True)


class TestInheritance:
    """`[defaults]` holds for every cluster that does not say otherwise."""

    def test_a_cluster_takes_what_it_does_not_set(self) -> None:
        config = read(
            '[defaults]\nrefresh = "2h"\ngrace = "1m"\n'
            '[[clusters]]\ncontext = "a"\n[[clusters]]\ncontext = "b"\nrefresh = "3h"\n'
        )
        assert [(cluster.refresh, cluster.grace) for cluster in config.clusters] == [(7200.0, 60.0), (10800.0, 60.0)]
        assert config.defaults.refresh == 7200.0

    def test_presets_are_used_in_the_order_in_which_they_are_listed(self) -> None:
        text = f'{CLUSTER}preset = ["gke", "gpu-operator", "gke"]\n'
        assert first(text).active_sources == (*PRESETS["gke"], *PRESETS["gpu-operator"])

    def test_the_command_of_a_cluster_replaces_that_of_its_preset(self) -> None:
        (source,) = first(f'{CLUSTER}preset = "gke"\ncommand = ["smi"]\n').active_sources
        assert source.command == ("smi",)

    def test_the_command_of_a_source_takes_precedence(self) -> None:
        places = 'namespace = "gpus", selector = "", container = "smi"'
        sources = f'sources = [{{{places}, command = ["own"]}}, {{{places}}}, {{{places}, method = "log"}}]\n'
        commands = [source.command for source in first(f'{CLUSTER}command = ["smi"]\n{sources}').active_sources]
        assert commands == [("own",), ("smi",), ()]

    @pytest.mark.parametrize("preset", list(PRESETS))
    def test_a_preset_names_its_source(self, preset: str) -> None:
        assert first(f'{CLUSTER}preset = "{preset}"\n').active_sources == PRESETS[preset]

    def test_the_default_preset_is_the_gpu_operator(self) -> None:
        assert first(CLUSTER).active_sources == (
            PodSource(
                namespace="gpu-operator",
                selector="app=nvidia-device-plugin-daemonset",
                container="nvidia-device-plugin",
                command=("nvidia-smi", "-q", "-x"),
            ),
        )

    def test_a_clusters_preset_replaces_the_default_sources(self) -> None:
        text = f'[[defaults.sources]]\nnamespace = "gpus"\nselector = "app=smi"\ncontainer = "smi"\n{CLUSTER}'
        assert first(text).active_sources == (SOURCE,)
        assert first(f'{text}preset = "gke"\n').active_sources == PRESETS["gke"]

    def test_a_clusters_sources_replace_the_default_preset(self) -> None:
        sources = 'sources = [{namespace = "gpus", selector = "app=smi", container = "smi"}]\n'
        assert first(f'[defaults]\npreset = "gke"\n{CLUSTER}{sources}').active_sources == (SOURCE,)


class TestPaths:
    """A path is relative to the file that names it; `~` is home."""

    def test_relative_paths_start_at_the_configuration_file(self) -> None:
        config = read(f'[server]\ntls_cert = "tls/c.pem"\ntls_key = "../k.pem"\n{CLUSTER}kubeconfig = "kube"\n')
        assert (config.server.cert_file, config.server.key_file) == (
            Path("/etc/gpuid/tls/c.pem"),
            Path("/etc/gpuid/../k.pem"),
        )
        assert config.clusters[0].kubeconfig == "/etc/gpuid/kube"

    def test_relative_paths_start_at_the_config_map_link(self, tmp_path: Path) -> None:
        (tmp_path / "..2026").mkdir()
        (tmp_path / "..2026" / "gpuid.toml").write_text(f'{CLUSTER}kubeconfig = "secrets/kube"\n')
        (tmp_path / "..data").symlink_to("..2026")
        (tmp_path / "gpuid.toml").symlink_to("..data/gpuid.toml")
        assert load(tmp_path / "gpuid.toml").clusters[0].kubeconfig == f"{tmp_path}/secrets/kube"

    def test_a_tilde_is_the_home_directory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/bob")
        config = read(f'[server]\nbearer_token_file = "~/token"\n{CLUSTER}kubeconfig = "~/.kube/config"\n')
        assert config.server.bearer_token_file == Path("/home/bob/token")
        assert config.clusters[0].kubeconfig == "/home/bob/.kube/config"

    def test_several_kubeconfigs_are_joined_by_colons_and_inherited(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/bob")
        text = f'[defaults]\nkubeconfig = "a:/b::~/c"\n{CLUSTER}'
        assert first(text).kubeconfig == "/etc/gpuid/a:/b:/home/bob/c"

    def test_a_store_in_an_unknown_home_is_refused_by_its_key(self) -> None:
        expected = "url: expected the path of a user with a home directory"
        assert refusal(f'{CLUSTER}[store]\nurl = "sqlite:///~nobody-at-all/x.db"\n') == f"store.{expected}"

    def test_an_unknown_home_directory_is_refused_by_its_key(self) -> None:
        expected = 'expected the path of a user with a home directory, got "~nobody-at-all/x"'
        assert refusal(f'{CLUSTER}kubeconfig = "~nobody-at-all/x"\n') == f"clusters[0].kubeconfig: {expected}"
        text = f'[server]\nbearer_token_file = "~nobody-at-all/x"\n{CLUSTER}'
        assert refusal(text) == f"server.bearer_token_file: {expected}"


class TestFiles:
    """Reading the file itself."""

    def test_a_file_is_read_and_its_folder_is_the_base(self, tmp_path: Path) -> None:
        file = tmp_path / "gpuid.toml"
        file.write_text(f'{CLUSTER}kubeconfig = "kube"\n')
        assert load(file).clusters[0].kubeconfig == str(tmp_path / "kube")

    def test_a_byte_order_mark_is_skipped(self, tmp_path: Path) -> None:
        file = tmp_path / "gpuid.toml"
        file.write_text(CLUSTER, encoding="utf-8-sig")
        assert load(file) == parse(CLUSTER, file)

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        latin = tmp_path / "latin.toml"
        latin.write_bytes('name = "é"'.encode("latin-1"))
        for path, expected in [
            (tmp_path / "none.toml", "no such file or directory"),
            (tmp_path, "is a directory"),
            (latin, "expected UTF-8 text"),
        ]:
            with pytest.raises(ConfigError) as error:
                load(path)
            assert str(error.value) == f"{path}: {expected}"


class TestDurations:
    """Lengths of time."""

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("30s", 30), ("5m", 300), ("1h", 3600), ("1d", 86400), ("50ms", 0.05), ("1h30m", 5400), ("1.5h", 5400)],
    )
    def test_a_duration_is_a_number_of_seconds(self, text: str, seconds: float) -> None:
        assert Duration.parse(text) == seconds

    @given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"])), min_size=1))
    def test_the_parts_of_a_duration_add_up(self, parts: list[tuple[int, str]]) -> None:
        units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
        text = "".join(f"{number}{unit}" for number, unit in parts)
        assert Duration.parse(text) == pytest.approx(sum(number * units[unit] for number, unit in parts))

    @given(st.text() | st.integers() | st.booleans() | st.none())
    def test_anything_is_a_duration_or_refused_by_its_form(self, value: object) -> None:
        try:
            assert Duration.parse(value) >= 0
        except ValueError as error:
            assert str(error).startswith('expected a duration such as "30s", "5m" or "1h", got ')  # noqa: PT017

    @pytest.mark.parametrize("text", ["", "1", "s", "1 h", "-1s", "1h\n", "1H", "1y", "٣s", "1e3s", "9" * 400 + "s"])
    def test_other_forms_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match='expected a duration such as "30s", "5m" or "1h", got '):
            Duration.parse(text)


class TestSizes:
    """Numbers of bytes."""

    @pytest.mark.parametrize(
        ("text", "size"),
        [("0B", 0), ("1B", 1), ("64KiB", 65536), ("4MiB", 4 << 20), ("1GiB", 1 << 30), ("1500KiB", 1536000)],
    )
    def test_a_size_is_a_number_of_bytes_and_written_the_same_way(self, text: str, size: int) -> None:
        assert (Size.parse(text), str(Size(size))) == (size, text)

    @given(st.text() | st.integers() | st.booleans() | st.none())
    def test_anything_is_a_size_or_refused_by_its_form(self, value: object) -> None:
        try:
            assert Size.parse(value) >= 0
        except ValueError as error:
            assert str(error).startswith('expected a size such as "64KiB" or "4MiB", got ')  # noqa: PT017

    @pytest.mark.parametrize(
        "text", ["", "1", "MiB", "1 MiB", "-1MiB", "1MB", "1mib", "1.5MiB", "٣MiB", "9" * 99 + "B"]
    )
    def test_other_forms_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match='expected a size such as "64KiB" or "4MiB", got '):
            Size.parse(text)


class TestListen:
    """Addresses to serve on."""

    @pytest.mark.parametrize(
        ("text", "host", "port"),
        [
            (":8080", "", 8080),
            ("0.0.0.0:80", "0.0.0.0", 80),
            ("[::]:9", "::", 9),
            ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
            ("localhost:0", "localhost", 0),
            ("gpuid.example:65535", "gpuid.example", 65535),
        ],
    )
    def test_an_address_is_a_host_and_a_port(self, text: str, host: str, port: int) -> None:
        listen = Listen.parse(text)
        assert (listen, listen.host, listen.port) == (text, host, port)

    @pytest.mark.parametrize("value", ["8080", "", ":", ":65536", "a b:1", "::1:80", "http://x:1", ":1\n", 8080, None])
    def test_other_forms_are_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match=r'^expected an address such as "0\.0\.0\.0:8080" or '):
            Listen.parse(value)


SINK = '[store]\nurl = "sqlite:///x/y.db"\n[sinks.a]\n'

BAD = [
    # The document
    ("", "clusters: expected at least one [[clusters]] table"),
    ("clusters", "Expected '=' after a key in a key/value pair (at end of document)"),
    ("x = " + "[" * 5000, "arrays or tables nested too deep"),
    ("clusters = 1", "clusters: expected an array, got a whole number"),
    ("clusters = [1]", "clusters[0]: expected a table, got a whole number"),
    (f"defaults = 1\n{CLUSTER}", "defaults: expected a table, got a whole number"),
    # Unknown keys, at every level
    (f"[metrix]\n{CLUSTER}", 'metrix: unknown key; did you mean "metrics"?'),
    (f"[[cluster]]\n{CLUSTER}", 'cluster: unknown key; did you mean "clusters"?'),
    (f'[defaults]\nrefesh = "1h"\n{CLUSTER}', 'defaults.refesh: unknown key; did you mean "refresh"?'),
    (f'[server]\nlsten = ":1"\n{CLUSTER}', 'server.lsten: unknown key; did you mean "listen"?'),
    (f"[metrics]\nnode_label = []\n{CLUSTER}", 'metrics.node_label: unknown key; did you mean "node_labels"?'),
    (f'{CLUSTER}foo = "x"', "clusters[0].foo: unknown key"),
    (f'{CLUSTER}contxt = "x"', 'clusters[0].contxt: unknown key; did you mean "context"?'),
    (f'{CLUSTER}"na\\nme" = "x"', 'clusters[0]."na\\nme": unknown key; did you mean "name"?'),
    (
        f'{CLUSTER}sources = [{{containr = "x"}}]',
        'clusters[0].sources[0].containr: unknown key; did you mean "container"?',
    ),
    (
        f'[[defaults.sources]]\nnamspace = "x"\n{CLUSTER}',
        'defaults.sources[0].namspace: unknown key; did you mean "namespace"?',
    ),
    # Wrong types
    (f"{CLUSTER}name = 3", "clusters[0].name: expected a string, got a whole number"),
    (f"{CLUSTER}kubeconfig = 3", "clusters[0].kubeconfig: expected a string, got a whole number"),
    (f"{CLUSTER}in_cluster = 1", "clusters[0].in_cluster: expected true or false, got a whole number"),
    (f'{CLUSTER}command = "smi"', "clusters[0].command: expected an array, got a string"),
    (f"{CLUSTER}command = [1]", "clusters[0].command[0]: expected a string, got a whole number"),
    (f"{CLUSTER}preset = 5", "clusters[0].preset: expected a string or an array, got a whole number"),
    (f'{CLUSTER}command = [""]', "clusters[0].command: expected at least a program name"),
    (
        f'{CLUSTER}sources = [{{ namespace = "a", selector = "", container = "b", command = ["", "-q"] }}]',
        "clusters[0].sources[0].command: expected at least a program name",
    ),
    (
        f'{CLUSTER}sources = [{{ namespace = "a", selector = "", container = "b", command = [] }}]',
        "clusters[0].sources[0].command: expected at least a program name",
    ),
    (f"{CLUSTER}exec_concurrency = 1.5", "clusters[0].exec_concurrency: expected a whole number, got a number"),
    (f"{CLUSTER}loop_share = 1.5", "clusters[0].loop_share: expected at most 1, got 1.5"),
    (f"{CLUSTER}max_object_size = 5", 'clusters[0].max_object_size: expected a size such as "64KiB" or "4MiB", got 5'),
    (f'{CLUSTER}request_rate = "x"', "clusters[0].request_rate: expected a number, got a string"),
    (f"{CLUSTER}sources = [1]", "clusters[0].sources[0]: expected a table, got a whole number"),
    (f"[server]\ntls_cert = 1\n{CLUSTER}", "server.cert_file: expected a path, got 1"),
    (f"[server.basic_auth]\nbob = 3\n{CLUSTER}", "server.basic_auth.*: expected a string, got a whole number"),
    (f'[metrics]\nnode_labels = "x"\n{CLUSTER}', "metrics.node_labels: expected an array, got a string"),
    # Values out of form
    (
        f'{CLUSTER}refresh = "1 h"',
        'clusters[0].refresh: expected a duration such as "30s", "5m" or "1h", got "1 h"',
    ),
    (f"{CLUSTER}grace = true", 'clusters[0].grace: expected a duration such as "30s", "5m" or "1h", got true'),
    (
        f"[defaults]\nrefresh = 60\n{CLUSTER}",
        'defaults.refresh: expected a duration such as "30s", "5m" or "1h", got 60',
    ),
    (
        f'[server]\nlisten = "8080"\n{CLUSTER}',
        'server.listen: expected an address such as "0.0.0.0:8080" or "[::]:8080", got "8080"',
    ),
    (
        f'[metrics]\ncluster_label = "a-b"\n{CLUSTER}',
        'metrics.cluster_label: expected a Prometheus label name, got "a-b"',
    ),
    (
        f'[metrics]\ncluster_label = "__a"\n{CLUSTER}',
        'metrics.cluster_label: expected a Prometheus label name, got "__a"',
    ),
    (
        f'[metrics]\ncluster_label = "node"\n{CLUSTER}',
        'metrics.cluster_label: "node" is a label that gpuid sets itself',
    ),
    (
        f'[metrics]\ncluster_label = "instance"\n{CLUSTER}',
        'metrics.cluster_label: "instance" is a label that Prometheus sets itself',
    ),
    (
        f'[metrics]\ncluster_label = "field"\n{CLUSTER}',
        'metrics.cluster_label: "field" is a label that gpuid sets itself',
    ),
    (f'[metrics]\ncluster_label = "NaN"\n{CLUSTER}', 'metrics.cluster_label: "NaN" is a PromQL keyword'),
    (f'[metrics]\ncluster_label = "by"\n{CLUSTER}', 'metrics.cluster_label: "by" is a PromQL keyword'),
    (f'[server.basic_auth]\nbob = "hunter2"\n{CLUSTER}', "server.basic_auth.bob: expected a bcrypt hash"),
    # Values that no cluster could run with
    *(
        (f"{CLUSTER}{key} = {value}", f"clusters[0].{key}: expected a finite value above zero, got {shown}")
        for key, value, shown in [
            *(("refresh", '"0s"', "0"), ("exec_timeout", '"0ms"', "0"), ("exec_concurrency", 0, "0")),
            *(("request_burst", -1, "-1"), ("request_rate", -1.5, "-1.5"), ("request_rate", 0.0, "0")),
            *(("request_rate", "nan", "nan"), ("request_rate", "inf", "inf")),
            *(("max_objects", 0, "0"), ("max_answer_size", '"0B"', "0"), ("loop_share", 0.0, "0")),
        ]
    ),
    (f"[defaults]\nrequest_burst = 0\n{CLUSTER}", "defaults.request_burst: expected a finite value above zero, got 0"),
    (f'{CLUSTER}preset = "x"', f'clusters[0].preset: expected one of {", ".join(PRESETS)}, got "x"'),
    (f"{CLUSTER}preset = []", "clusters[0].preset: expected at least one"),
    (
        f'{CLUSTER}preset = ["gke", "x"]',
        f'clusters[0].preset: expected one of {", ".join(PRESETS)}, got "x"',
    ),
    (
        f'{CLUSTER}sources = [{{namespace = "n", selector = "", container = "c", method = "ssh"}}]',
        'clusters[0].sources[0].method: expected one of exec, log, got "ssh"',
    ),
    (
        f'{CLUSTER}sources = [{{namespace = "n", selector = "", container = "c", method = "log", command = ["smi"]}}]',
        'clusters[0].sources[0].command: expected only with method = "exec"; with "log", the pod itself runs it',
    ),
    (f"{CLUSTER}command = []", "clusters[0].command: expected at least a program name"),
    (f'{CLUSTER}kubeconfig = ":"', "clusters[0].kubeconfig: expected a path"),
    ('[[clusters]]\ncontext = ""', "clusters[0].context: expected a context name"),
    (f'{CLUSTER}sources = [{{namespace = "a"}}]', 'clusters[0].sources[0]: expected a key "selector" in the table'),
    (
        f'{CLUSTER}sources = [{{namespace = "", selector = "", container = "c"}}]',
        'clusters[0].sources[0].namespace: expected a valid Kubernetes name, got ""',
    ),
    (
        f'{CLUSTER}sources = [{{namespace = "n", selector = "", container = ""}}]',
        'clusters[0].sources[0].container: expected a valid Kubernetes name, got ""',
    ),
    (
        f'{CLUSTER}sources = [{{namespace = "a/../b", selector = "", container = "c"}}]',
        'clusters[0].sources[0].namespace: expected a valid Kubernetes name, got "a/../b"',
    ),
    # Selectors
    (
        f'{CLUSTER}sources = [{{namespace = "n", selector = "app=x, tier in a", container = "c"}}]',
        'clusters[0].sources[0].selector: expected a label selector such as "app=gpu-plugin" or "tier in (a, b), !old",'
        ' and not "tier in a" in it',
    ),
    (
        f'[defaults]\nnode_selector = "gpu = yes please"\n{CLUSTER}',
        'defaults.node_selector: expected a label selector such as "app=gpu-plugin" or "tier in (a, b), !old",'
        ' and not "gpu = yes please" in it',
    ),
    # Durations that would wear out the nodes, or let nothing ever succeed
    (f'{CLUSTER}refresh = "1ms"', 'clusters[0].refresh: expected at least "10s", got "1ms"'),
    (f'[defaults]\nexec_timeout = "999ms"\n{CLUSTER}', 'defaults.exec_timeout: expected at least "1s", got "999ms"'),
    (f'[store]\nurl = "postgresql://x/y"\nstrict = true\n{CLUSTER}', "store.strict: only allowed with a sqlite: url"),
    (
        f'[store]\nurl = "sqlite:///x/y.db"\nretention = "1s"\n{CLUSTER}',
        'store.retention: expected at least "1m", got "1s"',
    ),
    (
        f'{SINK}type = "webhook"\nurl = "https://x/"\ntimeout = "1ms"\n{CLUSTER}',
        'sinks.a.timeout: expected at least "100ms", got "1ms"',
    ),
    # Kinds of sinks
    (
        f'{SINK}type = "weebhook"\n{CLUSTER}',
        'sinks.a.type: expected one of stdout, webhook, s3, postgres, got "weebhook"; did you mean "webhook"?',
    ),
    (f"{SINK}type = 3\n{CLUSTER}", "sinks.a.type: expected a string, got a whole number"),
    (f"{SINK}emit = 3\n{CLUSTER}", 'sinks.a: expected a key "type" in the table'),
    # Rules between keys
    ("[[clusters]]", 'clusters[0]: expected either context = "…" or in_cluster = true'),
    (f"{CLUSTER}in_cluster = true", 'clusters[0]: expected either context = "…" or in_cluster = true'),
    (
        "[[clusters]]\nin_cluster = true",
        "clusters[0].name: required with in_cluster, which has no context to name the cluster after",
    ),
    (f"{CLUSTER}{CLUSTER}", 'clusters: two clusters are named "prod"; rename one of them'),
    (
        f'{CLUSTER}[[clusters]]\ncontext = "x"\nname = "prod"\n',
        'clusters: two clusters are named "prod"; rename one of them',
    ),
    (f'{CLUSTER}preset = "gke"\nsources = []', "clusters[0]: expected either preset or sources, not both"),
    (f'[defaults]\npreset = "gke"\nsources = []\n{CLUSTER}', "defaults: expected either preset or sources, not both"),
    (f'{CLUSTER}name = ""', 'clusters[0].name: expected printable characters in one line, got ""'),
    (f'{CLUSTER}name = "a\\nb"', 'clusters[0].name: expected printable characters in one line, got "a\\nb"'),
    (f"{CLUSTER}sources = []", "clusters[0].sources: expected at least one source"),
    (f"[defaults]\nsources = []\n{CLUSTER}", "defaults.sources: expected at least one source"),
    (
        f'[metrics]\nnode_labels = ["zone", "a b"]\n{CLUSTER}',
        'metrics.node_labels: expected Kubernetes label keys, got "a b"',
    ),
    (
        f'[metrics]\nnode_labels = ["a/b/c"]\n{CLUSTER}',
        'metrics.node_labels: expected Kubernetes label keys, got "a/b/c"',
    ),
    (f'[server]\ntls_cert = "c"\n{CLUSTER}', "server: expected cert_file and key_file together"),
    (f'[server]\ntls_key = "k"\n{CLUSTER}', "server: expected cert_file and key_file together"),
    (f'[server]\nclient_ca = "a"\n{CLUSTER}', "server.client_ca_file: requires cert_file and key_file"),
]


LONG = "x" * 3000


class TestRefusals:
    """A bad file is answered with its name, the key and what was expected, in one line."""

    @pytest.mark.parametrize(("text", "message"), BAD)
    def test_a_bad_file_is_refused_in_one_line(self, text: str, message: str) -> None:
        assert refusal(text) == message

    def test_a_refused_value_is_shortened_to_one_line(self) -> None:
        message = refusal(f'{CLUSTER}preset = "a\\nb{"x" * 1000}"')
        assert message.startswith(f'clusters[0].preset: expected one of {", ".join(PRESETS)}, got "a\\nbxxx')
        assert len(message) < 200

    @pytest.mark.parametrize(
        ("text", "start", "end"),
        [
            (f"[server]\n{LONG} = 1\n{CLUSTER}", 'server."xxx', "…: unknown key"),
            (f'[sinks.{LONG}]\ntype = "webhook"\n{CLUSTER}', 'sinks."xxx', '…: expected a key "url" in the table'),
            (
                f'[sinks.{LONG}]\ntype = "stdout"\nx1 = 1\n{CLUSTER}',
                'sinks."xxx',
                "….x1: unknown key",
            ),
            (f'[sinks."{"a b " * 999}"]\ntype = "x"\n{CLUSTER}', 'sinks."a b a', 'got "x"; did you mean "webhook"?'),
            (
                f'{SINK}type = "s3"\nbucket = "{LONG}"\n{CLUSTER}',
                'sinks.a.bucket: expected a bucket name, got "xxx',
                "…",
            ),
            (f'[server.basic_auth]\n{LONG} = "x"\n{CLUSTER}', 'server.basic_auth."xxx', "…: expected a bcrypt hash"),
            (f'["{"x y" * 500}"]\n["{"x y" * 500}"]', "Cannot declare ('x yx y", "twice (at line 2, column 1504)"),
        ],
    )
    def test_a_name_of_any_length_is_shortened(self, text: str, start: str, end: str) -> None:
        message = refusal(text)
        assert message.startswith(start)
        assert message.endswith(end)
        assert len(message) <= 500

    def test_a_password_in_place_of_a_hash_is_not_repeated(self) -> None:
        assert "hunter2" not in refusal(f'[server.basic_auth]\nbob = "hunter2"\n{CLUSTER}')

    @pytest.mark.parametrize("kind", [DefaultSettings, ClusterSettings])
    def test_a_typo_in_any_key_suggests_the_right_one(self, kind: type[DefaultSettings]) -> None:
        for key in kind.__struct_fields__:
            where, table = ("defaults", "[defaults]") if kind is DefaultSettings else ("clusters[0]", CLUSTER)
            text = f"{table}\n{key}x = 1\n" + (CLUSTER if kind is DefaultSettings else "")
            assert refusal(text) == f'{where}.{key}x: unknown key; did you mean "{key}"?'

    @given(st.text())
    def test_any_text_is_a_configuration_or_refused(self, text: str) -> None:
        try:
            parse(text, FILE)
        except ConfigError as error:
            assert str(error).startswith(f"{FILE}: ")  # noqa: PT017


class TestRenamedKeys:
    """Old names of keys are accepted with one warning."""

    OLD = """
[server]
tls_cert = "tls.crt"
tls_key = "tls.key"
client_ca = "ca.crt"

[store]

[sinks.warehouse]
type = "postgres"
dsn = "postgresql://gpuid@db/warehouse"

[[clusters]]
context = "prod"
"""

    def test_old_names_mean_the_same_and_one_warning_names_them(self, caplog: pytest.LogCaptureFixture) -> None:
        new = (
            self.OLD.replace("tls_cert", "cert_file")
            .replace("tls_key", "key_file")
            .replace("client_ca", "client_ca_file")
        )
        assert read(self.OLD) == read(new.replace("dsn", "url"))
        assert [record.message for record in caplog.records] == [
            f"{FILE}: renamed keys: server.tls_cert is now cert_file, server.tls_key is now key_file, "
            "server.client_ca is now client_ca_file, sinks.warehouse.dsn is now url; "
            "the old names will be removed in 1.0"
        ]

    def test_the_columns_of_the_go_gpuid_have_an_old_name(self) -> None:
        lake = f'{CLUSTER}[store]\n[sinks.lake]\ntype = "s3"\nbucket = "serials"\ncolumns = '
        assert read(f'{lake}"peer"').sinks == read(f'{lake}"go-gpuid"').sinks

    def test_only_the_sink_that_had_the_old_name_accepts_it(self) -> None:
        hook = f'{CLUSTER}[store]\n[sinks.hook]\ntype = "webhook"\ndsn = "https://example.com"\n'
        assert refusal(hook) == "sinks.hook.dsn: unknown key"

    def test_reading_the_same_file_again_does_not_warn_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = tmp_path / "gpuid.toml"
        file.write_text(self.OLD)
        assert load(file, warn=False) == load(file)
        assert len(caplog.records) == 1

    def test_both_names_of_a_key_are_refused(self) -> None:
        both = self.OLD.replace('tls_cert = "tls.crt"', 'tls_cert = "tls.crt"\ncert_file = "tls.crt"')
        assert refusal(both) == "server.tls_cert: is the old name of cert_file; remove one of them"

    @pytest.mark.parametrize("text", ["server = 1\n", "sinks = 1\n", "[sinks]\na = 1\n"])
    def test_values_that_are_not_tables_are_left_to_validation(self, text: str) -> None:
        assert "expected" in refusal(text + CLUSTER)
