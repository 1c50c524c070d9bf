"""Kubeconfigs for a collector: what they keep, what they never hold, and how they are written."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.config import ClusterSettings
from collector.grant.contexts import CollectorContext, admin_cluster, check_target, make_secret, token_file, write
from collector.grant.granting import GrantError
from collector.kube import kubeconfig
from collector.kube.token_request import MadeToken


def context(name: str, token: str = "t0ken") -> CollectorContext:
    return CollectorContext(
        name, {"server": f"https://{name}.example.com"}, MadeToken(text=token, ends="2026-01-01T00:00:00Z")
    )


def admin(tmp_path: Path, **cluster: Any) -> dict[str, Any]:
    user = {"token": "the-admin's", "client-key-data": "a2V5"}
    document = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "prod", "context": {"cluster": "c", "user": "u"}}],
    }
    file = tmp_path / "admin"
    file.write_text(json.dumps(document))
    return admin_cluster("prod", str(file))


class TestAdminCluster:
    def test_connection_settings_are_kept(self, tmp_path: Path) -> None:
        entry = {
            "server": "https://10.0.0.1:6443",
            "certificate-authority-data": "Y2E=",
            "tls-server-name": "kubernetes",
            "proxy-url": "http://proxy:3128",
            "disable-compression": True,
        }
        assert admin(tmp_path, **entry) == entry

    def test_a_certificate_authority_file_is_embedded(self, tmp_path: Path) -> None:
        (tmp_path / "ca.crt").write_bytes(b"PEM")
        entry = admin(tmp_path, server="https://x", **{"certificate-authority": "ca.crt"})
        assert entry == {"server": "https://x", "certificate-authority-data": base64.b64encode(b"PEM").decode()}

    def test_an_unreadable_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(GrantError, match=r'context "prod" in .*/nowhere.crt: no such file'):
            admin(tmp_path, server="https://x", **{"certificate-authority": "nowhere.crt"})

    def test_credentials_are_not_copied(self, tmp_path: Path) -> None:
        entry = admin(tmp_path, server="https://a:secret@x:6443/k", **{"proxy-url": "http://b:secret@proxy:3128"})
        assert entry == {"server": "https://x:6443/k", "proxy-url": "http://proxy:3128"}


class TestWrite:
    def test_a_collector_can_read_the_result(self, tmp_path: Path) -> None:
        file = tmp_path / "new" / "kubeconfig"
        write(file, [context("prod"), context("arn:aws:eks:eu:1:cluster/prod", "other")])
        info = kubeconfig.find("arn:aws:eks:eu:1:cluster/prod", str(file))
        assert Path(info.user.token_file).read_text() == "other"
        assert Path(info.user.token_file).parent == file.parent
        assert info.cluster.server == "https://arn:aws:eks:eu:1:cluster/prod.example.com"
        for one in (file, *file.parent.glob("*.token")):
            assert one.stat().st_mode & 0o777 == 0o600
        assert min(path.name for path in file.parent.iterdir()) == token_file("arn:aws:eks:eu:1:cluster/prod")
        assert len(list(file.parent.iterdir())) == 3
        ClusterSettings(context="prod", kubeconfig=str(file))

    def test_other_contexts_are_kept(self, tmp_path: Path) -> None:
        file = tmp_path / "kubeconfig"
        write(file, [context("a"), context("b")])
        write(file, [context("b", "newer"), context("c")])
        document = yaml.safe_load(file.read_text())
        assert [one["name"] for one in document["contexts"]] == ["a", "b", "c"]
        assert document["current-context"] == "a"
        assert (tmp_path / "b.token").read_text() == "newer"

    def test_a_context_created_by_others_is_never_replaced(self, tmp_path: Path) -> None:
        file = tmp_path / "kubeconfig"
        theirs = {
            "clusters": [{"name": "prod", "cluster": {"server": "https://x"}}],
            "users": [{"name": "prod", "user": {"token": "the-admin's"}}],
            "contexts": [{"name": "prod", "context": {"cluster": "prod", "user": "prod"}}],
        }
        file.write_text(yaml.safe_dump(theirs))
        for attempt in (lambda: check_target(file, ["prod"]), lambda: write(file, [context("prod")])):
            with pytest.raises(GrantError, match=r'kubeconfig: cluster "prod" was not written by gpuid'):
                attempt()
        assert yaml.safe_load(file.read_text()) == theirs
        assert list(tmp_path.iterdir()) == [file]

    def test_its_context_is_added_next_to_others(self, tmp_path: Path) -> None:
        file = tmp_path / "kubeconfig"
        file.write_text('users: [{name: "1e3", user: {token: "0123"}}]\npreferences: {}\n')
        write(file, [context("prod")])
        document = yaml.safe_load(file.read_text())
        assert document["users"][0] == {"name": "1e3", "user": {"token": "0123"}}
        assert document["preferences"] == {}

    @pytest.mark.parametrize("content", ["{", "[]", "kind: Secret", "\x00"])
    def test_a_file_other_than_a_kubeconfig_is_unchanged(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "kubeconfig"
        file.write_text(content)
        with pytest.raises(GrantError, match="kubeconfig: not "):
            check_target(file, ["prod"])
        with pytest.raises(GrantError, match="kubeconfig: not "):
            write(file, [context("prod")])
        assert file.read_text() == content

    def test_a_symbolic_link_is_preserved(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        link = tmp_path / "kubeconfig"
        link.symlink_to("there/real")
        write(link, [context("prod")])
        assert link.is_symlink()
        assert (tmp_path / "there" / "prod.token").exists()

    def test_a_folder_that_is_a_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(GrantError, match="not a directory"):
            check_target(tmp_path / "file" / "kubeconfig", ["prod"])


@pytest.mark.parametrize("name", ["..", "a/b", "a b", ".", "é", "x" * 300])
def test_a_token_file_stays_in_its_folder(name: str) -> None:
    assert "/" not in token_file(name)
    assert not token_file(name).startswith(".")
    assert len(token_file(name).encode()) < 200
    assert token_file(name) != token_file(name.replace("/", "_").replace(" ", "_") + "x")


def test_the_secret_has_the_form_that_the_deployment_mounts() -> None:
    example = Path(__file__).parents[2] / "config" / "kubernetes" / "collector" / "kubeconfig.example.yaml"
    wanted = yaml.safe_load(example.read_text())
    secret = make_secret([context("a", "one"), context("b", "two")])
    assert {key: secret[key] for key in ("apiVersion", "kind", "metadata", "type")} == {
        key: wanted[key] for key in ("apiVersion", "kind", "metadata", "type")
    }
    assert secret["stringData"].keys() == wanted["stringData"].keys()
    document = yaml.safe_load(secret["stringData"]["config"])
    assert [one["user"] for one in document["users"]] == [{"token": "one"}, {"token": "two"}]


def test_a_token_is_not_in_its_repr() -> None:
    assert "t0ken" not in repr(context("prod"))
