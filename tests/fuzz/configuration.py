"""Files and values that people write: kubeconfig, gpuid.toml, URLs, durations and selectors."""

from typing import Any, TypeVar, cast

import yaml
from hypothesis import strategies as st
from yarl import URL

from collector import config
from collector.config import ConfigError, Duration, Listen
from collector.config.libpq import connection_options
from collector.config.postgres import split_postgres_url
from collector.config.selector import parse_selector
from collector.config.store import locate
from collector.files import UnreadableFileError, read_secret
from collector.grant import contexts
from collector.grant.contexts import CollectorContext
from collector.grant.granting import GrantError
from collector.kube import authentication, kubeconfig, transport
from collector.kube import tls as kube_tls
from collector.kube.connection import ClusterEntry, ConnectionInfo
from collector.kube.errors import BadContextError, ClusterError
from collector.kube.server_url import parse_server
from collector.proxies import ProxyUrlError, choose, parse_proxy
from collector.redaction import Secrets
from collector.simulator import certificates
from collector.tls import TlsFileError, read_authorities, validity
from tests.fuzz.documents import any_text, damaged, json_documents, texts
from tests.fuzz.target import FOLDER, Targets, bytes_target, refusing, text_target

__all__ = ["TARGETS"]

T = TypeVar("T")


KUBECONFIG = (
    *("apiVersion", "kind", "current-context", "clusters", "users", "contexts", "name", "cluster", "user", "context"),
    *("server", "certificate-authority-data", "certificate-authority", "insecure-skip-tls-verify", "tls-server-name"),
    *("proxy-url", "token", "tokenFile", "username", "password", "client-certificate-data", "client-key-data", "exec"),
    *("command", "args", "env", "value", "as", "as-groups", "as-user-extra", "auth-provider", "config", "extensions"),
)
KUBECONFIG_VALUES = [
    *(
        "https://10.0.0.1:6443",
        "http://[",
        "https://\u2100",
        "socks5://x",
        "http://u:p@h:99999",
        "//",
        "x",
        "u",
        "oidc",
    ),
    *("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg==", "2024-06-01", "12:30", "\ud800", "client.authentication.k8s.io/v1"),
]


def _entries(kind: str) -> st.SearchStrategy[list[Any]]:
    entry = st.dictionaries(
        st.sampled_from(KUBECONFIG),
        st.none()
        | st.booleans()
        | texts
        | st.sampled_from(KUBECONFIG_VALUES)
        | st.lists(texts, max_size=2)
        | st.dictionaries(st.sampled_from(KUBECONFIG), texts | st.sampled_from(KUBECONFIG_VALUES), max_size=4),
        max_size=6,
    )
    servers = st.sampled_from([value for value in KUBECONFIG_VALUES if "/" in value]) | texts
    if kind == "cluster":
        entry = st.builds(lambda one, server: {**one, "server": server}, entry, servers)
    if kind == "context":
        entry = st.builds(lambda one: {**one, "cluster": "x", "user": "x"}, entry)
    return st.lists(st.fixed_dictionaries({"name": st.just("x") | texts, kind: entry}), max_size=2)


def _yaml(document: Any) -> bytes:
    return yaml.safe_dump(document, allow_unicode=True).encode(errors="surrogatepass")


kubeconfigs = (
    st.fixed_dictionaries({"clusters": _entries("cluster"), "users": _entries("user"), "contexts": _entries("context")})
    .map(_yaml)
    .flatmap(damaged)
    | json_documents(*KUBECONFIG, values=[value for value in KUBECONFIG_VALUES if value.isprintable()])
    | st.sampled_from(
        [b"&a [*a]", b"[" * 5000, b"a: &a [*a, *a]", b"? [a]\n: b", b"!!python/object:x y", b"<<: 1", b"\t"]
    )
)


def _kubeconfig(content: bytes) -> None:
    file = FOLDER / "kubeconfig"
    file.write_bytes(content)
    kubeconfig._parse.cache_clear()
    for name in kubeconfig.contexts(str(file)):
        with refusing(ClusterError):
            info = kubeconfig.find(name, str(file))
            transport.ConnectionSettings(info)
            authentication.choose(info, lambda: 0.0, Secrets())


def _collector_kubeconfig(content: bytes) -> None:
    """Add a context of `gpuid grant` to a file that somebody else wrote."""
    file = FOLDER / "collector"
    file.write_bytes(content)
    context = CollectorContext("a", {"server": "https://a"}, cast("Any", None))
    with refusing(GrantError):
        yaml.safe_dump(contexts.merged(contexts._load(file), [context], {"a": {"token": "x"}}))


def _config(text: str) -> None:
    config.parse(text, FOLDER / "gpuid.toml")


CONFIGS = (
    "[[clusters]]\ncontext = {}\nrefresh = {}\nselector = {}\n",
    "[server]\nlisten = {}\n[[clusters]]\ncontext = {}\nkubeconfig = {}\n",
    "[store]\nurl = {}\nretention = {}\n[[clusters]]\ncontext = {}\n",
    "[store]\n[sinks.x]\ntype = {}\nurl = {}\n[[clusters]]\ncontext = {}\n",
    "[[clusters]]\ncontext = {}\n[[clusters.sources]]\nselector = {}\nnamespace = {}\n",
)
toml_values = st.sampled_from(
    [
        *('"x"', '"~nobody/x"', '"sqlite://~nobody/x"', '"sqlite:///x"', '"postgresql://u:p@[/d"', '"webhook"', '"s3"'),
        *('"http://["', '"http://x"', '"http://x:99999"', '"30s"', '"99999999999d"', '":8080"', '"a in (b"', "1", "-1"),
        *("1979-05-27", "inf", "nan", "true", "[]", "[[]]", "{}", "[" * 2000, "9" * 5000, '"\\u0000"', '"\\ud800"', ""),
    ]
) | texts.map(lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
tomls = st.builds(lambda form, values: form.format(*values), st.sampled_from(CONFIGS), st.tuples(*[toml_values] * 3))

urls = st.builds(
    lambda scheme, rest: scheme + rest,
    st.sampled_from(["http://", "https://", "socks5://", "sqlite:", "sqlite:///", "postgresql://", "//", ""]),
    any_text
    | st.sampled_from(
        [
            "[",
            "[::1",
            "[]@",
            "a[]b@/x",
            "u:p@h:1/x?y#z",
            "~nobody",
            "a:b:c",
            "@",
            ":@:",
            "%zz",
            "\u2100",
            "h:99999999",
            "][",
        ]
    ),
)


def _proxy(text: str) -> None:
    with refusing(ProxyUrlError):
        parse_proxy(text, "x")
    with refusing(ProxyUrlError):
        choose(URL("https://10.0.0.1:6443"), {"HTTPS_PROXY": text, "NO_PROXY": text})
    parse_server(ConnectionInfo(where="x", cluster=ClusterEntry(server=text)))


def _store_url(text: str) -> None:
    locate(text)
    split_postgres_url(text)


def _postgres_url(text: str) -> None:
    """Split a URL, as is done before its parameters are read, with errors that do not quote it."""
    split_postgres_url(text)
    connection_options(text)


def _secret(content: bytes) -> None:
    file = FOLDER / "secret"
    file.write_bytes(content)
    read_secret(file)


def _certificates(content: bytes) -> None:
    """Read a bundle of certificates, and how long its first one is valid."""
    validity(content)
    kube_tls.out_of_time([content], [content], 0.0)
    for certificate in read_authorities(content).certificates:
        kube_tls.out_of_time([certificate], [certificate], 0.0)


AUTHORITY = certificates.make(FOLDER, "localhost", "x").authority
bundles = st.sampled_from([AUTHORITY, b"junk\n" + AUTHORITY * 2, b"-----BEGIN PRIVATE KEY-----\n", b"0\x82"]).flatmap(
    damaged
)
postgres_urls = st.sampled_from(
    [
        "postgresql://u:p@h:5432/d?sslmode=verify-full&connect_timeout=3",
        "postgresql://u@[::1]:5432,h2:5433/d?target_session_attrs=read-write",
        "postgresql:///d?host=/run&port=1,2&sslrootcert=system",
        "postgresql://%zz@h/d?options=-c%20x",
        "postgresql://h:99999/d?sslmode=x&sslmode=y",
    ]
)

TARGETS: Targets = {
    "certificates": bytes_target(_certificates, bundles, TlsFileError),
    "postgres-url": text_target(_postgres_url, postgres_urls | urls, ValueError),
    "kubeconfig": bytes_target(_kubeconfig, kubeconfigs, ClusterError),
    "collector-kubeconfig": bytes_target(_collector_kubeconfig, kubeconfigs),
    "selector": text_target(parse_selector, any_text | texts.map(lambda text: f"a in ({text}), !b"), ValueError),
    "proxy": text_target(_proxy, urls, BadContextError),
    "configuration": text_target(_config, tomls | any_text, ConfigError),
    "store-url": text_target(_store_url, urls, ValueError),
    "secret-file": bytes_target(_secret, st.binary(), UnreadableFileError),
    "duration": text_target(Duration.parse, any_text | texts, ValueError),
    "listen": text_target(Listen.parse, any_text | texts, ValueError),
}
