"""YAML and nulls as Kubernetes' own programs take them."""

from typing import Any

import msgspec
import pytest

from collector.kube.connection import ClusterEntry, User
from collector.kube.go_values import BadYamlError, WrongTypeError, convert, convert_json, load_yaml


class TestYaml:
    @pytest.mark.parametrize(
        ("scalar", "value"),
        [
            ("2024-06-01", "2024-06-01"),
            ("2016-12-27T22:18:24.911838Z", "2016-12-27T22:18:24.911838Z"),
            ("2001-12-14 21:59:43.10 -5", "2001-12-14 21:59:43.10 -5"),
            ("12:30", "12:30"),
            ("190:20:30", "190:20:30"),
            ("1.5:30", "1.5:30"),
            ("=", "="),
            ("1.2.3", "1.2.3"),
            ("_1", "_1"),
            ("!!timestamp 2024-06-01", "2024-06-01"),
            ("!!str 12", "12"),
            ("!!binary aGk=", "hi"),
            ("!unknown x", "x"),
            ("'null'", "null"),
            ('"12"', "12"),
            ("", None),
            ("~", None),
            ("Null", None),
            ("yes", True),
            ("y", True),
            ("Off", False),
            ("12", 12),
            ("0755", 0o755),
            ("0x1F", 31),
            ("1_000", 1000),
            ("08", 8.0),
            ("1e3", 1000.0),
            ("-.5", -0.5),
            ("0x_", "0x_"),
            ("1e400", "1e400"),
        ],
    )
    def test_a_scalar_is_read_as_in_go(self, scalar: str, value: Any) -> None:
        found = load_yaml(f"a: {scalar}".encode())["a"]
        assert (found, type(found)) == (value, type(value))

    def test_keys_are_text(self) -> None:
        found = load_yaml(b"12: a\ntrue: b\n2024-06-01: c\n{{ template }}: d\ne: {{ template }}")
        assert found == {"12": "a", "true": "b", "2024-06-01": "c", "{…}": "d", "e": {"{…}": None}}

    def test_anchors_and_merges_are_followed(self) -> None:
        assert load_yaml(b"a: &a {b: 1}\nc: {<<: *a, d: 2}\ne: *a")["c"] == {"b": 1, "d": 2}

    @pytest.mark.parametrize(
        "content",
        [
            b"a: b\n---\nc: [",
            b"a: b\n...\n{{{",
            b"---\na: b",
            b"# comment\n---\na: b",
            b"\xef\xbb\xbfa: b\r\n",
            "a: b".encode("utf-16"),
            b'{\t"a":\t"b"\t}',
        ],
    )
    def test_the_first_document_is_used_in_every_encoding(self, content: bytes) -> None:
        assert load_yaml(content) == {"a": "b"}

    @pytest.mark.parametrize("content", [b"", b"# comment", b"---\n---\na: b"])
    def test_an_empty_document_is_none(self, content: bytes) -> None:
        assert load_yaml(content) is None

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            (b"a: [s3cr3t", "line 2"),
            (b"a:\n  b: c\n d: e", "line 3"),
            (b"a: *s3cr3t", "line 1"),
            (b"a: \xe4", "incomplete UTF-8 octet sequence"),
            (b"a: \xe4bcd", "invalid trailing UTF-8 octet"),
            (b"\x00", "control characters are not allowed"),
            (b"a: !!binary '!'", "line 1"),
            (b"[" * 100_000, "line 1"),
        ],
    )
    def test_invalid_yaml_is_reported_only_by_line(self, content: bytes, line: str) -> None:
        with pytest.raises(BadYamlError) as caught:
            load_yaml(content)
        assert "s3cr3t" not in str(caught.value)
        assert str(caught.value) in (line, "")


class TestTypes:
    def test_nulls_are_zero_values_at_every_depth(self) -> None:
        user = convert(
            {
                "token": None,
                "tokenFile": None,
                "username": None,
                "exec": {
                    "command": "aws",
                    "args": [None, "x"],
                    "env": [None, {"name": "A", "value": None}],
                    "provideClusterInfo": None,
                },
                "auth-provider": {"name": None, "config": {"a": None}},
                "as-user-extra": {"k": None, "l": [None]},
            },
            User,
        )
        assert (user.token, user.token_file, user.username) == ("", "", "")
        assert user.exec is not None
        assert user.exec.args == ("", "x")
        assert [(one.name, one.value) for one in user.exec.env or ()] == [("", ""), ("A", "")]
        assert user.auth_provider is not None
        assert user.auth_provider.config == {"a": ""}
        assert user.as_user_extra == {"k": None, "l": ("",)}
        assert convert(None, User).kind == "none"

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ({"token": 12345678}, "token: expected text, got a number; put it in quotes"),
            ({"token": True}, "token: expected text, got true or false; put it in quotes"),
            ({"token": ["s3cr3t"]}, "token: expected text, got a list"),
            ({"exec": "s3cr3t"}, "exec: expected a mapping, got text"),
            ({"exec": {"args": {"s3cr3t": 1}}}, "exec.args: expected a list, got a mapping"),
            ({"exec": {"args": ["x", 1]}}, "exec.args[1]: expected text, got a number; put it in quotes"),
            (
                {"auth-provider": {"config": {"expiry": 5}}},
                "auth-provider.config.expiry: expected text, got a number; put it in quotes",
            ),
            (["s3cr3t"], "expected a mapping, got a list"),
        ],
    )
    def test_a_wrong_type_names_the_path_and_not_the_value(self, value: Any, text: str) -> None:
        with pytest.raises(WrongTypeError) as caught:
            convert(value, User)
        assert str(caught.value) == text

    def test_text_is_not_true(self) -> None:
        with pytest.raises(WrongTypeError, match="insecure-skip-tls-verify: expected true or false, got text"):
            convert({"insecure-skip-tls-verify": "yes"}, ClusterEntry)

    def test_a_recursive_structure_is_refused(self) -> None:
        loop = load_yaml(b"&loop {items: [*loop]}")
        with pytest.raises(WrongTypeError, match="nested too deep"):
            convert(loop, _Loop)

    def test_json_is_filled_in_the_same_way(self) -> None:
        assert convert_json(b'{"token": null, "username": "me"}', User).username == "me"


class _Loop(msgspec.Struct):
    items: "list[_Loop]" = []
