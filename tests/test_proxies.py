"""Which proxy leads to a server."""

import pytest
from yarl import URL

from collector.kube.connection import ClusterEntry, ConnectionInfo
from collector.kube.errors import BadContextError
from collector.kube.proxy import choose as choose_for_cluster
from collector.kube.server_url import parse_server
from collector.proxies import ProxyUrlError, choose, describe, is_socks, parse_proxy

SERVER = URL("https://api.prod.example.com:6443")
PROXY = "http://proxy:3128"


def chosen(server, **environment):
    found = choose(URL(server), environment)
    return str(found) if found else None


def test_the_proxy_in_the_kubeconfig_takes_precedence(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    assert choose_for_cluster(SERVER, "", "x") == URL(PROXY)  # as to kubectl
    monkeypatch.setenv("NO_PROXY", "*")
    assert choose_for_cluster(SERVER, "https://user:pw@corp:8443", "x") == URL("https://user:pw@corp:8443")
    assert choose_for_cluster(SERVER, "", "x") is None


def test_without_a_proxy_connections_are_direct():
    assert chosen(SERVER) is None


def test_upper_case_comes_first_and_the_scheme_is_optional():
    assert chosen(SERVER, HTTPS_PROXY="upper:1", https_proxy="lower:1") == "http://upper:1"
    assert chosen(SERVER, https_proxy="lower:1") == "http://lower:1"


def test_each_scheme_has_its_own_variable():
    assert chosen("http://api.example.com", HTTPS_PROXY=PROXY) is None
    assert chosen("http://api.example.com", HTTP_PROXY=PROXY) == PROXY


@pytest.mark.parametrize(
    "server", ["https://localhost:6443", "https://127.0.0.1:6443", "https://[::1]:6443", "https://[::ffff:127.0.0.1]:1"]
)
def test_loopback_never_uses_a_proxy_of_the_environment(server):
    assert chosen(server, HTTPS_PROXY=PROXY) is None


@pytest.mark.parametrize("server", ["https://LOCALHOST:1", "https://u:localhost@Localhost", "https://localhost.:1"])
def test_localhost_is_written_in_lower_case(server):
    found = parse_server(ConnectionInfo(where="x", cluster=ClusterEntry(server=server)))
    assert choose(found.url, {"HTTPS_PROXY": PROXY}, host=found.host) == URL(PROXY)


@pytest.mark.parametrize("url", [f" {PROXY}", f"\t{PROXY} ", " proxy:3128"])
def test_a_value_starting_with_a_blank_is_ignored(url):
    assert chosen(SERVER, HTTPS_PROXY=url) is None


@pytest.mark.parametrize(
    ("server", "rule", "direct"),
    [
        ("https://a.example.com", "example.com", True),
        ("https://example.com", "example.com", True),
        ("https://example.com", ".example.com", False),
        ("https://a.example.com", ".example.com", True),
        ("https://a.example.com", "*.example.com", True),
        ("https://notexample.com", "example.com", False),
        ("https://A.Example.COM", "other, EXAMPLE.com", True),
        ("https://a.example.com:6443", "example.com:6443", True),
        ("https://a.example.com:6443", "example.com:443", False),
        ("https://a.example.com", "example.com:443", True),
        ("https://10.0.0.1:6443", "10.0.0.0/8", True),
        ("https://11.0.0.1:6443", "10.0.0.0/8", False),
        ("https://api.example.com", "10.0.0.0/8", False),
        ("https://10.0.0.1:6443", "10.0.0.1", True),
        ("https://10.0.0.1:6443", "10.0.0.1:6443", True),
        ("https://10.0.0.1:6443", "10.0.0.1:443", False),
        ("https://[fd00::1]:6443", "fd00::/8", True),
        ("https://[fd00::1]:6443", "fd00::1", True),
        ("https://[fd00::1]:6443", "[fd00::1]:6443", True),
        ("https://anything", "*", True),
        ("https://anything", "", False),
        ("https://anything", " , ", False),
        ("https://anything", "not/a/network", False),
        # What golang.org/x/net/http/httpproxy says of them.
        ("https://sim.test", "*test", False),
        ("https://sim.test", "sim.*", False),
        ("https://sim.test", "[sim.test]", False),
        ("https://sim.test", "[sim.test]:443", True),
        ("https://sim.test", "sim.test:", True),
        ("https://sim.test", "sim.test:443:1", False),
        ("https://sim.test", "sim.test.", False),
        ("https://sim.test.", "sim.test", False),
        ("https://sim.test.", "sim.test.", True),
        ("https://sim.test", " * ", True),
        ("https://sim.test", "x,*", True),
        ("https://sim.test", ".", False),
        ("https://sim.test", "*.", False),
        ("https://sim.test", ":443", False),
        ("https://xn--bcher-kva.example", "bücher.example", True),
        ("https://bücher.example", "*.bücher.example", False),
        ("https://x.bücher.example", "*.bücher.example", True),
        ("https://10.9.8.7", "10.9.8.7/255.0.0.0", False),
        ("https://10.9.8.7", "10.0.0.0/33", False),
        ("https://10.9.8.7", "0.0.0.0/0", True),
        ("https://10.9.8.7", "::/0", False),
        ("https://10.9.8.7", "::ffff:10.9.8.7", True),
        ("https://10.9.8.7", "::ffff:10.0.0.0/104", True),
        ("https://[::ffff:10.9.8.7]", "10.0.0.0/8", True),
        ("https://10.9.8.7", "010.0.0.0/8", True),
        ("https://10.9.8.7", "010.9.8.7", False),
        ("https://10.9.8.7", ".7", False),
        ("https://[fd00::1]", "[fd00::1]", False),
        ("https://[fe80::1%25eth0]", "fe80::1", True),
    ],
)
def test_no_proxy_is_interpreted_as_in_go(server, rule, direct):
    assert (chosen(server, HTTPS_PROXY=PROXY, NO_PROXY=rule) is None) is direct


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "socks4://me:s3cr3t@proxy:1080",
            "x: proxy-url: socks4 proxies are not supported; expected http, https or socks5",
        ),
        ("proxy:3128", "x: proxy-url: expected a URL such as http://proxy:3128 or socks5://proxy:1080"),
        (
            "http://me:s3cr3t@proxy:port",
            "x: proxy-url: not a URL such as http://proxy:3128 or socks5://proxy:1080",
        ),
        ("http://" + "[" * 4700, "x: proxy-url: not a URL such as http://proxy:3128 or socks5://proxy:1080"),
    ],
)
def test_an_unusable_proxy_is_refused_without_its_password(url, message):
    with pytest.raises(BadContextError) as caught:
        choose_for_cluster(SERVER, url, "x")
    assert str(caught.value) == message


def test_an_unusable_proxy_in_the_environment_names_its_variable():
    with pytest.raises(ProxyUrlError, match="HTTPS_PROXY: ftp proxies"):
        chosen(SERVER, https_proxy="ftp://proxy")


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_both_names_of_a_socks_proxy_are_recognised(scheme):
    assert is_socks(parse_proxy(f"{scheme}://proxy:1080", "x"))
    assert chosen(SERVER, HTTPS_PROXY=f"{scheme}://proxy:1080") == f"{scheme}://proxy:1080"
    assert not is_socks(parse_proxy(PROXY, "x"))


def test_a_proxy_is_described_without_its_password():
    assert describe(URL("http://me:s3cr3t@corp:3128")) == "proxy corp:3128"
    assert describe(URL("socks5://corp")) == "proxy corp:1080"
