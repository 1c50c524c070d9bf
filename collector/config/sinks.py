"""The settings of each kind of sink."""

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from collector.config.libpq import connection_options
from collector.config.postgres import split_postgres_url
from collector.config.values import Duration, quote
from collector.proxies import ProxyUrlError, parse_proxy
from collector.urls import is_host, parse_url

__all__ = ["CommonSinkSettings", "PostgresSettings", "S3Settings", "SinkSettings", "StdoutSettings", "WebhookSettings"]

_POSTGRES_URL_FORM = "url: expected postgresql://user@host:5432/database"


class CommonSinkSettings(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """The keys of every sink."""

    emit: Literal["changes", "readings"] = "changes"  # one record per change, or per GPU of each reading
    batch_records: int = 500  # a batch is sent at this many records …
    batch_age: Duration = Duration(5)  # … or when its oldest record has waited this long
    backfill: bool = False  # a new sink gets the whole history first

    def __post_init__(self) -> None:
        """Reject values that no sink can run with."""
        _above_zero(self, ("batch_records", "batch_age"))


class StdoutSettings(CommonSinkSettings, frozen=True, kw_only=True, tag="stdout"):
    """One JSON object per line on standard output."""


class WebhookSettings(CommonSinkSettings, frozen=True, kw_only=True, tag="webhook"):
    """A POST of a JSON array per batch."""

    url: str  # http or https; logs and errors show only its host
    token_file: Path | None = None  # sent as `Authorization: Bearer …`
    token_env: str | None = None  # environment variable, instead of the file
    hmac_secret_file: Path | None = None  # signs `X-Timestamp` + "." + body, in X-Signature
    hmac_secret_env: str | None = None
    gzip: bool = False  # compress the body
    ca_file: Path | None = None  # PEM; trusted instead of the public CAs
    cert_file: Path | None = None  # PEM chain of the client certificate; reloaded when it changes
    key_file: Path | None = None  # PEM; default: the key is in cert_file
    proxy: str | None = None  # http, https or socks5://host:port; "": none; default: from HTTP_PROXY etc.
    connect_timeout: Duration = Duration(10)
    read_timeout: Duration = Duration(30)  # between two parts of the response
    write_timeout: Duration = Duration(30)  # between two parts of the request
    timeout: Duration = Duration(60)  # for the whole request

    def __post_init__(self) -> None:
        """Check values and combinations of keys."""
        super().__post_init__()
        _above_zero(self, ("connect_timeout", "read_timeout", "write_timeout", "timeout"))
        _http_url("url", self.url)
        _proxy(self.proxy)
        _one_of(self, "token_file", "token_env")
        _one_of(self, "hmac_secret_file", "hmac_secret_env")
        _certificate(self.cert_file, self.key_file)


class S3Settings(CommonSinkSettings, frozen=True, kw_only=True, tag="s3"):
    """An object per batch in S3 or an S3-compatible service.

    Credentials come from AWS's default chain: environment, profile, web identity (IRSA), pod identity, instance role.
    """

    bucket: str  # a name, or the ARN of an access point
    prefix: str = ""  # of the object keys, without leading or trailing slash
    format: Literal["csv", "jsonl", "parquet"] = "csv"
    columns: Literal["all", "go-gpuid", "peer"] = (
        "all"  # csv: every field, or the seven of the Go gpuid ("peer": old name)
    )
    header: bool = False  # csv: start with a header line
    gzip: bool = False  # csv and jsonl
    region: str | None = None  # default: from AWS_REGION or the profile
    profile: str | None = None  # of ~/.aws/config; default: AWS_PROFILE
    endpoint_url: str | None = None  # of an S3 service other than AWS
    path_style: bool = False  # https://host/bucket/key instead of https://bucket.host/key
    ca_file: Path | None = None  # PEM; trusted instead of the public CAs
    proxy: str | None = None  # like that of a webhook
    checksum: Literal["auto", "md5", "crc32", "none"] = "auto"  # "auto": MD5, or CRC32 where S3 accepts no other
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None  # default: the bucket's setting
    kms_key_id: str | None = None  # key ID, alias or ARN; default: the S3 key of the account
    connect_timeout: Duration = Duration(10)
    read_timeout: Duration = Duration(30)
    timeout: Duration = Duration(60)  # for the whole upload, credentials included

    def __post_init__(self) -> None:
        """Check values and combinations of keys."""
        super().__post_init__()
        if self.columns == "peer":
            msgspec.structs.force_setattr(self, "columns", "go-gpuid")
        _above_zero(self, ("connect_timeout", "read_timeout", "timeout"))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]|arn:[^:\s]+:s3[^\s]*", self.bucket):
            raise ValueError(f"bucket: expected a bucket name, got {quote(self.bucket)}")
        if self.prefix != self.prefix.strip("/") or "//" in self.prefix or not self.prefix.isprintable():
            raise ValueError('prefix: expected a path such as "gpus/serials", without leading or trailing slash')
        if self.endpoint_url is not None:
            _http_url("endpoint_url", self.endpoint_url)
        _proxy(self.proxy)
        if self.format == "parquet" and self.gzip:
            raise ValueError('gzip: not allowed with format = "parquet", which is already compressed')
        if self.format != "csv" and (self.header or self.columns != "all"):
            raise ValueError('header and columns: only allowed with format = "csv"')
        if self.kms_key_id is not None and (self.sse is None or not self.sse.startswith("aws:kms")):
            raise ValueError('kms_key_id: requires sse = "aws:kms" or "aws:kms:dsse"')


class PostgresSettings(CommonSinkSettings, frozen=True, kw_only=True, tag="postgres"):
    """Rows in a PostgreSQL table with the columns of the Go gpuid."""

    url: str  # postgresql://user@host:5432/database, without a password
    password_file: Path | None = None  # contains the password; read for each connection
    password_env: str | None = None  # environment variable, instead of the file
    table: str = "serials"  # or schema.table
    create_table: bool = False  # create the table, or add our columns to the Go gpuid's
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "require"
    ca_file: Path | None = None  # PEM; must have signed the server's certificate
    cert_file: Path | None = None  # PEM chain of the client certificate
    key_file: Path | None = None  # PEM; default: the key is in cert_file
    connect_timeout: Duration = Duration(10)
    statement_timeout: Duration = Duration(30)  # for each statement

    def __post_init__(self) -> None:
        """Check values and combinations of keys."""
        super().__post_init__()
        _above_zero(self, ("connect_timeout", "statement_timeout"))
        _postgres_url(self.url)
        _one_of(self, "password_file", "password_env")
        _certificate(self.cert_file, self.key_file)
        if not re.fullmatch(r"([A-Za-z_]\w{0,62}\.)?[A-Za-z_]\w{0,62}", self.table, re.ASCII):
            raise ValueError(f'table: expected "table" or "schema.table", got "{self.table}"')
        if self.sslmode in ("disable", "prefer") and (self.ca_file or self.cert_file):
            raise ValueError('ca_file and cert_file: require sslmode = "require", "verify-ca" or "verify-full"')


SinkSettings = StdoutSettings | WebhookSettings | S3Settings | PostgresSettings


def _above_zero(settings: CommonSinkSettings, keys: Collection[str]) -> None:
    for key in keys:
        if getattr(settings, key) <= 0:
            raise ValueError(f"{key}: expected a value above zero")


def _one_of(settings: CommonSinkSettings, file: str, variable: str) -> None:
    if getattr(settings, file) is not None and getattr(settings, variable) is not None:
        raise ValueError(f"expected {file} or {variable}, not both")


def _certificate(cert: Path | None, key: Path | None) -> None:
    if key is not None and cert is None:
        raise ValueError("key_file: requires cert_file")


def _http_url(key: str, url: str) -> None:
    """Check a URL; errors never quote it, because it may contain a secret."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        host = parse_url(url).raw_host or ""
        usable = usable and is_host(host) and _has_letters(parts.hostname or "")
        usable = usable and (":" in host or "[" not in parts.netloc)
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise ValueError(f"{key}: expected a URL such as https://host/path")
    if "@" in parts.netloc:
        raise ValueError(f"{key}: must not contain a user or password")


def _has_letters(host: str) -> bool:
    """Return whether the non-ASCII part of a host consists of letters, digits and marks, as names do."""
    return all(letter.isascii() or letter.isalnum() or unicodedata.category(letter)[0] == "M" for letter in host)


def _proxy(proxy: str | None) -> None:
    if proxy:
        try:
            url = parse_proxy(proxy, "proxy")
        except ProxyUrlError as error:
            raise ValueError(str(error)) from None
        if not is_host(url.raw_host or ""):
            raise ValueError("proxy: expected a URL such as http://proxy:3128 or socks5://proxy:1080")
        if url.user is not None or url.password is not None:
            raise ValueError("proxy: must not contain a user or password; use HTTP_PROXY or HTTPS_PROXY instead")


def _postgres_url(url: str) -> None:
    """Check a PostgreSQL URL; errors never quote it, because it may contain a password."""
    try:
        login, hosts, _, query = split_postgres_url(url)
    except ValueError:
        raise ValueError(_POSTGRES_URL_FORM) from None
    if not (login or hosts or query.keys() & {"host", "service"}):
        raise ValueError(_POSTGRES_URL_FORM)
    if ":" in login or query.keys() & {"password", "passfile", "sslpassword"}:
        raise ValueError("url: must not contain a password; use password_file or password_env")
    if found := sorted(key for key in query if key.startswith("ssl") and key != "sslnegotiation"):
        raise ValueError(f"url: must not contain {found[0]}; use sslmode, ca_file, cert_file and key_file")
    if connection_options(url).connect_timeout is not None:
        raise ValueError("url: must not contain connect_timeout; use the key connect_timeout")
