"""The files that users start from agree with the program and with each other."""

import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from collector.config import (
    PRESETS,
    ClusterSettings,
    Config,
    DefaultSettings,
    MetricsSettings,
    PodSource,
    ServerSettings,
    load,
    parse,
)
from collector.config.sinks import CommonSinkSettings, PostgresSettings, S3Settings, StdoutSettings, WebhookSettings
from collector.config.store import StoreSettings

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
DOCUMENTS = sorted(
    str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *CONFIG.rglob("*.md")]
)
COLLECTOR = CONFIG / "kubernetes" / "collector"


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((COLLECTOR / name).read_text())


def test_the_minimal_configuration_is_valid() -> None:
    assert [cluster.name for cluster in load(CONFIG / "gpuid.toml").clusters] == ["prod-us-east", "research"]


def test_the_guide_from_the_go_program_has_a_valid_configuration(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.+?)```", (ROOT / "docs" / "from-go-gpuid.md").read_text(), re.DOTALL)
    config = parse(text, tmp_path / "gpuid.toml")
    assert config.clusters[0].active_sources == PRESETS["gpu-operator"]
    assert config.sinks["lake"] == S3Settings(
        bucket="gpuids", prefix="serial-numbers", region="us-east-1", emit="readings", columns="peer"
    )


def test_every_cluster_of_the_guide_by_distribution_has_a_valid_configuration(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "clusters.md").read_text()
    clusters = [
        cluster
        for text in re.findall(r"```toml\n(.+?)```", guide, re.DOTALL)
        for cluster in parse(textwrap.dedent(text), tmp_path / "gpuid.toml").clusters
    ]
    assert {preset for cluster in clusters if not cluster.sources for preset in cluster.presets} == set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_is_named_wherever_they_are_listed(preset: str) -> None:
    assert f'"{preset}"' in (CONFIG / "gpuid.full.toml").read_text()
    assert f"`{preset}`" in (ROOT / "docs" / "configuration.md").read_text()
    assert f"`{preset}`" in (ROOT / "docs" / "clusters.md").read_text()


def test_the_guide_by_distribution_names_the_namespace_of_each_preset() -> None:
    guide = (ROOT / "docs" / "clusters.md").read_text()
    rows = re.findall(r"^\| (`.+`) \| `([\w-]+)` \|$", guide, re.MULTILINE)
    said = {preset: namespace for presets, namespace in rows for preset in re.findall(r"`([\w-]+)`", presets)}
    assert said == {name: source.namespace for name, (source,) in PRESETS.items()}


def test_the_full_configuration_states_the_defaults() -> None:
    config = load(CONFIG / "gpuid.full.toml")
    assert config.store == StoreSettings()
    assert config.sinks == {
        "log": StdoutSettings(),
        "inventory": WebhookSettings(url="https://inventory.example.com/gpus"),
        "lake": S3Settings(bucket="gpu-serials"),
        "warehouse": PostgresSettings(url="postgresql://gpuid@db.example.com:5432/warehouse"),
    }
    assert (config.defaults, config.server, config.metrics) == (DefaultSettings(), ServerSettings(), MetricsSettings())


@pytest.mark.parametrize(
    ("table", "kinds", "elsewhere"),
    [
        ("clusters", [ClusterSettings], DefaultSettings),  # whose keys may stand here too
        ("defaults", [DefaultSettings, PodSource], None),
        ("server", [ServerSettings], None),
        ("metrics", [MetricsSettings], None),
        ("store", [StoreSettings], None),
        ("sinks.log", [StdoutSettings], None),
        ("sinks.inventory", [WebhookSettings], CommonSinkSettings),  # which [sinks.log] shows
        ("sinks.lake", [S3Settings], CommonSinkSettings),
        ("sinks.warehouse", [PostgresSettings], CommonSinkSettings),
    ],
)
def test_each_table_of_the_full_configuration_mentions_every_key(
    table: str, kinds: list[type[msgspec.Struct]], elsewhere: type[msgspec.Struct] | None
) -> None:
    keys = {key for kind in kinds for key in kind.__struct_fields__}
    mentioned = mentions()[table] - {"type"}  # which chooses the kind of sink
    assert mentioned <= keys
    assert keys - mentioned <= set(elsewhere.__struct_fields__ if elsewhere else ())


def test_the_full_configuration_mentions_every_table() -> None:
    assert {table.partition(".")[0] for table in mentions()} == set(Config.__struct_fields__)


def mentions() -> dict[str, set[str]]:
    """Find the keys of each table of the full configuration, those in comments too."""
    found: dict[str, set[str]] = {}
    for line in (CONFIG / "gpuid.full.toml").read_text().splitlines():
        if heading := re.match(r"\[+([\w.]+)\]", line):
            keys = found.setdefault(heading[1], set())
        elif found:
            pattern = r"^(?:# *)?(?:\{ )?(\w+) = |, (\w+) = |; or (\w+)\b"
            keys.update(key for groups in re.findall(pattern, line) for key in groups if key)
    return found


def test_the_full_configuration_is_valid_when_uncommented(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=(?:\w+ = |  \{|\]))", "", (CONFIG / "gpuid.full.toml").read_text(), flags=re.MULTILINE)
    # These two exclude each other, and the example's hash is none.
    text = re.sub(r"^preset = .*$", "", text, flags=re.MULTILINE).replace("$2b$…", f"$2b$12${'a' * 53}")
    text = re.sub(r'^password_file = "store.*$', "", text, flags=re.MULTILINE)  # SQLite has none
    config = parse(text, tmp_path / "gpuid.toml")
    assert len(config.defaults.sources) == 2
    assert config.server.client_ca_file == tmp_path / "tls" / "ca.crt"
    assert config.server.bearer_token_file == tmp_path / "token"
    assert {sink.__struct_config__.tag for sink in config.sinks.values()} == {"stdout", "webhook", "s3", "postgres"}


def test_the_collectors_configuration_finds_its_kubeconfig_and_contexts() -> None:
    config = parse((COLLECTOR / "gpuid.toml").read_text(), Path("/etc/gpuid/gpuid.toml"))
    secret = manifest("kubeconfig.example.yaml")
    (container,) = manifest("deployment.yaml")["spec"]["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["config"] == "/etc/gpuid"
    contexts = {one["name"] for one in yaml.safe_load(secret["stringData"]["config"])["contexts"]}
    for cluster in config.clusters:
        assert cluster.kubeconfig == f"{mounts['kubeconfig']}/config"
        assert cluster.context in contexts


def test_the_deployment_needs_no_privilege_and_writes_only_to_tmp() -> None:
    pod = manifest("deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    written = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert written == ["/tmp"]


def test_a_rollout_never_runs_two_collectors_at_once() -> None:
    assert manifest("deployment.yaml")["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documented_commands_name_files_from_the_root_of_the_repository(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    typed = blocks + re.findall(r"`((?:kubectl|gpuid) [^`]+)`", text)
    paths = re.findall(r"(?<![\w./=])(?:\.\./)?(?:config|grafana|kubernetes|prometheus)/[\w./*-]*", "\n".join(typed))
    for path in paths:
        assert list(ROOT.glob(path)), path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_on_dead_letters_name_the_letters(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert re.findall(r"gpuid outbox (?:show|replay|drop)(?![\w -]*(?: LETTER| --sink | \d))[^`\n]*`", text) == []


def test_the_image_runs_as_the_user_of_the_deployment() -> None:
    user = manifest("deployment.yaml")["spec"]["template"]["spec"]["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in (ROOT / "Dockerfile").read_text()


def test_the_lock_pins_every_dependency_by_version_and_hash() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pins = dict(re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:", lock, re.MULTILINE))
    assert len(pins) == lock.count("==")
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        requirement = Requirement(text)
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier
    assert "://" not in lock
