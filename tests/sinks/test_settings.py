from typing import Any

import msgspec
import pytest

from collector.config import Duration
from collector.config.sinks import CommonSinkSettings, PostgresSettings, S3Settings, SinkSettings, StdoutSettings
from collector.sinks import open_sink


def read(document: dict[str, Any]) -> CommonSinkSettings:
    def decode(kind: type, value: Any) -> Any:
        return Duration.parse(value) if kind is Duration else kind(value)

    settings: CommonSinkSettings = msgspec.convert(document, SinkSettings, dec_hook=decode)
    return settings


def test_the_type_chooses_the_settings() -> None:
    assert read({"type": "stdout"}) == StdoutSettings()
    assert read({"type": "s3", "bucket": "gpu-serials", "batch_age": "1m"}) == S3Settings(
        bucket="gpu-serials", batch_age=Duration(60)
    )
    assert read({"type": "webhook", "url": "https://host/x", "token_file": "t"}).emit == "changes"
    assert isinstance(read({"type": "postgres", "url": "postgresql://me@host/db"}), PostgresSettings)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"type": "stdout", "batch_records": 0}, "batch_records: expected a value above zero"),
        ({"type": "webhook", "url": "ftp://host/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https:///path"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://host:99999/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://../"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://a..b/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://.a/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://" + "a" * 64}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://127.1:1/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://256.1.1.1/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://0x7f.1/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://a%20b/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://[v1.a]/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://\u2603.com/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://*.example.com/"}, "url: expected a URL"),
        ({"type": "webhook", "url": "https://" + "a." * 127}, "url: expected a URL"),
        ({"type": "s3", "bucket": "abc", "endpoint_url": "https://.."}, "endpoint_url: expected a URL"),
        ({"type": "s3", "bucket": "abc", "proxy": "http://..:3128"}, "proxy: expected a URL such as"),
        ({"type": "webhook", "url": "https://h/", "proxy": "socks5://a..b"}, "proxy: expected a URL such as"),
        ({"type": "postgres", "url": "postgresql://me@../db"}, "url: expected hosts as host:port"),
        ({"type": "postgres", "url": "postgresql://me@/db?host=a..b"}, "url: expected hosts as host:port"),
        ({"type": "webhook", "url": "https://me:hunter2@host/"}, "url: must not contain a user"),
        ({"type": "webhook", "url": "https://h/", "proxy": "http://me:hunter2@p:1"}, "proxy: must not contain a user"),
        ({"type": "webhook", "url": "https://h/", "proxy": "ftp://hunter2@p"}, "proxy: ftp proxies are not supported"),
        ({"type": "s3", "bucket": "abc", "proxy": "http://me:hunter2@p:1"}, "proxy: must not contain a user"),
        ({"type": "s3", "bucket": "abc", "proxy": "p:hunter2"}, "proxy: expected a URL such as"),
        ({"type": "webhook", "url": "https://h/", "token_file": "a", "token_env": "b"}, "token_file or token_env"),
        ({"type": "webhook", "url": "https://h/", "key_file": "a"}, "key_file: requires cert_file"),
        ({"type": "s3", "bucket": "a b"}, "bucket: expected a bucket name"),
        ({"type": "s3", "bucket": "abc", "prefix": "/x"}, "prefix: expected a path"),
        ({"type": "s3", "bucket": "abc", "format": "parquet", "gzip": True}, "gzip: not allowed with format"),
        ({"type": "s3", "bucket": "abc", "format": "jsonl", "header": True}, "header and columns"),
        ({"type": "s3", "bucket": "abc", "kms_key_id": "k"}, "kms_key_id: requires sse"),
        ({"type": "postgres", "url": "mysql://host/"}, "url: expected postgresql://"),
        ({"type": "postgres", "url": "postgresql://me:hunter2@host/db"}, "url: must not contain a password"),
        ({"type": "postgres", "url": "postgresql://me@host/db?password=hunter2"}, "url: must not contain a password"),
        ({"type": "postgres", "url": "postgresql://me:hunter2/@host/db"}, "url: expected postgresql://user@host"),
        ({"type": "postgres", "url": "postgresql://me:hunter2?@host/db"}, "url: expected postgresql://user@host"),
        ({"type": "postgres", "url": "postgresql://me@host/db?sslmode=disable"}, "url: must not contain sslmode"),
        ({"type": "postgres", "url": "postgresql://h/d", "table": 'a"; DROP'}, 'table: expected "table"'),
        ({"type": "postgres", "url": "postgresql://h/d", "sslmode": "prefer", "ca_file": "c"}, "ca_file and cert_file"),
    ],
)
def test_unusable_values_are_refused_without_repeating_secrets(document: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        read(document)
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["", "http://p:3128", "https://p", "socks5://p:1080", "socks5h://p"])
def test_a_proxy_may_be_any_or_none(proxy: str) -> None:
    assert read({"type": "webhook", "url": "https://h/", "proxy": proxy}).proxy == proxy  # type: ignore[attr-defined]
    assert read({"type": "s3", "bucket": "abc", "proxy": proxy}).proxy == proxy  # type: ignore[attr-defined]


def test_only_settings_of_a_known_sink_open_one() -> None:
    with pytest.raises(TypeError):
        open_sink("lake", CommonSinkSettings())


@pytest.mark.parametrize(
    "host", ["h", "a.b.", "a_b.svc", "127.0.0.1:1", "[::1]:8443", "\u00fc.example", "xn--tda.de", "a" * 63 + ".b"]
)
def test_a_valid_host_is_accepted(host: str) -> None:
    assert read({"type": "webhook", "url": f"https://{host}/"})
    assert read({"type": "postgres", "url": f"postgresql://me@{host}/db"})
