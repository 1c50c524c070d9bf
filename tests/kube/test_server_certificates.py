"""Certificates of API servers: those that Go accepts are accepted, and those that it refuses are named."""

import re
import ssl
import time

import pytest

from collector.kube import errors
from collector.kube.tls import out_of_time
from tests.support.kubernetes import Authority, get, serving_with

pytestmark = pytest.mark.anyio

PODS = "/api/v1/pods"
WHEN = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ"
EXPIRED, LATER = (-9, -2), (2, 9)  # days from now


async def failing(kubeconfig, failure, pair, authority):
    """Return the error of a request to a server with this certificate."""
    async with serving_with(pair) as server:
        kubeconfig.write({"server": server.url, "certificate-authority-data": authority.data})
        async with kubeconfig.session() as session:
            error = await failure(get(session, PODS))
    return error, str(error).removeprefix(f"{server.url}: ")


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (EXPIRED, f"the server's certificate expired on {WHEN}; renew it"),
        (LATER, f"the server's certificate is valid from {WHEN} on; is the clock right?"),
    ],
)
async def test_a_certificate_outside_its_validity_is_named_with_dates(kubeconfig, failure, authority, days, words):
    error, text = await failing(kubeconfig, failure, authority.issue("old", "127.0.0.1", days=days), authority)
    assert type(error) is errors.CertificateTimeError
    assert re.fullmatch(f"certificate verify failed: {re.escape(words).replace(re.escape(WHEN), WHEN)}", text)


async def test_an_authority_outside_its_validity_is_named_with_dates(kubeconfig, failure, tmp_path):
    old = Authority(tmp_path, "old", days=EXPIRED)
    error, text = await failing(kubeconfig, failure, old.issue("s", "127.0.0.1"), old)
    assert type(error) is errors.CertificateTimeError
    assert re.fullmatch(
        f"certificate verify failed: the certificate authority's certificate expired on {WHEN}; renew it", text
    )


async def test_an_untrusted_certificate_is_reported_differently(kubeconfig, failure, authority, other_authority):
    pair = authority.issue("old", "127.0.0.1", days=EXPIRED)
    error, text = await failing(kubeconfig, failure, pair, other_authority)
    assert type(error) is errors.UntrustedCertificateError
    assert "expired" not in text


def test_an_intermediate_certificate_is_distinguished_from_the_servers(tmp_path):
    good, old = (
        ssl.PEM_cert_to_DER_cert(Authority(tmp_path, name, days=days).path.read_text())
        for name, days in (("good", (-1, 1)), ("old", EXPIRED))
    )
    now = time.time()
    assert out_of_time([good, old], [], now).startswith("an intermediate certificate of the server expired on ")
    assert out_of_time([good], [old], now) == ""  # nobody names that authority
    assert out_of_time([], [], now) == out_of_time([b"no certificate"], [b""], now) == ""


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        pytest.param(b"old", b"\xf6ld", id="names that are not UTF-8"),
        pytest.param(rb"\x17\x0d\d{4}", b"\x17\x0d9913", id="validity"),
    ],
)
def test_a_certificate_that_can_only_be_read_in_part_explains_nothing(tmp_path, field, wrong):
    old = ssl.PEM_cert_to_DER_cert(Authority(tmp_path, "old", days=EXPIRED).path.read_text())
    broken = re.sub(field, wrong, old)
    assert broken != old
    assert out_of_time([broken], [broken], time.time()) == ""
    assert out_of_time([broken, old], [old, broken], time.time()).startswith("an intermediate certificate")


@pytest.mark.parametrize(("server_bits", "authority_bits"), [(1024, 0), (0, 1024), (1024, 1024)])
async def test_keys_as_short_as_go_allows_are_accepted(kubeconfig, tmp_path, server_bits, authority_bits):
    weak = Authority(tmp_path, "weak", rsa_bits=authority_bits)
    async with serving_with(weak.issue("s", "127.0.0.1", rsa_bits=server_bits)) as server:
        kubeconfig.write({"server": server.url, "certificate-authority-data": weak.data})
        async with kubeconfig.session() as session:
            await get(session, PODS)
