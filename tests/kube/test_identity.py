"""What the connections of a session prove about its server."""

import itertools
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from collector.kube import identity
from collector.kube.errors import ClusterError
from collector.kube.identity import Proof, ProofKind
from tests.support.kubernetes import ApiServer, Authority, Kubeconfig, Pair, get, serving

pytestmark = pytest.mark.anyio

ADDRESS, KEY = ProofKind.ADDRESS, ProofKind.KEY


def server_context(*pairs: Pair) -> ssl.SSLContext:
    """Return a context that presents one certificate after the other, each to one connection."""
    contexts = [ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in pairs]
    for context, pair in zip(contexts, pairs, strict=True):
        context.load_cert_chain(pair.chain, pair.key)
    turns = itertools.cycle(contexts)

    def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = next(turns)

    if len(pairs) > 1:
        contexts[0].sni_callback = choose
    return contexts[0]


async def answer(_request: web.Request) -> web.Response:
    return web.json_response({}, headers={"Connection": "close"})


@asynccontextmanager
async def api_server(*pairs: Pair) -> AsyncIterator[str]:
    async with serving(answer, server_context(*pairs)) as url:
        yield url


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("two-names", "127.0.0.1", "localhost")


@pytest.fixture
async def url(pair: Pair) -> AsyncIterator[str]:
    async with api_server(pair) as url:
        yield url


@pytest.fixture
def seen(kubeconfig: Kubeconfig) -> Any:
    async def connect(server: str, *, requests: int = 1, **cluster: Any) -> frozenset[Proof]:
        kubeconfig.write({"server": server, **cluster}, {"token": "t"})
        reported: list[frozenset[Proof]] = []
        async with kubeconfig.session(on_proof=reported.append) as session:
            assert reported == []  # nothing before the first handshake
            for _ in range(requests):
                await get(session, "/api")
        return reported[-1] if reported else frozenset()

    return connect


def kinds(one: frozenset[Proof], other: frozenset[Proof]) -> set[ProofKind]:
    return {proof.kind for proof in one & other}


async def test_one_server_has_everything_in_common_with_itself(seen: Any, url: str, authority: Authority) -> None:
    trust = {"certificate-authority-data": authority.data}
    assert kinds(await seen(url, **trust), await seen(f"{url}/", **trust)) == {ADDRESS, KEY}


async def test_two_names_of_one_server_have_its_key_in_common(seen: Any, url: str, authority: Authority) -> None:
    trust = {"certificate-authority-data": authority.data}
    by_name = await seen(url.replace("127.0.0.1", "localhost"), **trust)
    assert kinds(await seen(url, **trust), by_name) == {KEY}


async def test_servers_under_one_authority_have_nothing_in_common(seen: Any, url: str, authority: Authority) -> None:
    trust = {"certificate-authority-data": authority.data}
    async with api_server(authority.issue("second", "127.0.0.1")) as second:
        assert kinds(await seen(url, **trust), await seen(second, **trust)) == set()


async def test_a_bundle_with_more_authorities_is_different(
    seen: Any, url: str, authority: Authority, other_authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "bundle").write_bytes(authority.path.read_bytes() + other_authority.path.read_bytes())
    more = await seen(url, **{"certificate-authority": str(tmp_path / "bundle")})
    assert kinds(await seen(url, **{"certificate-authority-data": authority.data}), more) == {KEY}


async def test_a_server_with_an_additional_key_is_different(
    seen: Any, url: str, pair: Pair, authority: Authority, other_authority: Authority, tmp_path: Path
) -> None:
    """One that forwards some of its connections to the server of another cluster, and trusts its authority, too."""
    (tmp_path / "bundle").write_bytes(authority.path.read_bytes() + other_authority.path.read_bytes())
    bundle = {"certificate-authority": str(tmp_path / "bundle")}
    honest = await seen(url, **{"certificate-authority-data": authority.data})
    async with api_server(pair, other_authority.issue("hostile", "127.0.0.1")) as hostile:
        assert kinds(honest, await seen(hostile, **bundle)) == {KEY}  # so far it is nothing but a way to that server
        assert kinds(honest, await seen(hostile, requests=2, **bundle)) == set()


async def test_each_path_behind_one_server_is_another_cluster(seen: Any, url: str, authority: Authority) -> None:
    trust = {"certificate-authority-data": authority.data}
    one, other = await seen(f"{url}/k8s/clusters/a", **trust), await seen(f"{url}/k8s/clusters/b", **trust)
    assert (len(one), len(other), kinds(one, other)) == (2, 2, set())


async def test_a_server_that_is_not_verified_proves_nothing(
    seen: Any, url: str, plain_server: ApiServer, authority: Authority
) -> None:
    assert await seen(url, **{"insecure-skip-tls-verify": True}) == frozenset()
    assert await seen(plain_server.url) == frozenset()
    assert await seen(plain_server.url, **{"certificate-authority-data": authority.data}) == frozenset()


async def test_a_server_that_fails_verification_proves_nothing(
    kubeconfig: Kubeconfig, url: str, other_authority: Authority
) -> None:
    kubeconfig.write({"server": url, "certificate-authority-data": other_authority.data}, {"token": "t"})
    reported: list[frozenset[Proof]] = []
    async with kubeconfig.session(on_proof=reported.append) as session:
        with pytest.raises(ClusterError):
            await get(session, "/api")
    assert not any(reported)


async def test_one_unverified_connection_invalidates_all_proof(
    kubeconfig: Kubeconfig, url: str, authority: Authority, clock: Any
) -> None:
    kubeconfig.write({"server": url, "certificate-authority-data": authority.data}, {"token": "t"})
    reported: list[frozenset[Proof]] = []
    async with kubeconfig.session(clock=clock, on_proof=reported.append) as session:
        await get(session, "/api")
        assert len(reported[-1]) == 2
        kubeconfig.write({"server": url, "insecure-skip-tls-verify": True}, {"token": "t"})
        clock.now += 3600
        await get(session, "/api")
        assert reported[-1] == frozenset()


async def test_endless_keys_prove_nothing(seen: Any, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_KEYS", 2)
    pairs = [authority.issue(f"key-{number}", "127.0.0.1") for number in range(3)]
    async with api_server(*pairs) as endless:
        trust = {"certificate-authority-data": authority.data}
        assert len(await seen(endless, requests=2, **trust)) == 2
        assert await seen(endless, requests=6, **trust) == frozenset()


async def test_the_system_authorities_can_verify_a_server(
    seen: Any, url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    assert kinds(await seen(url), await seen(url)) == {ADDRESS, KEY}
    assert kinds(await seen(url), await seen(url, **{"certificate-authority-data": authority.data})) == {KEY}
    async with api_server(authority.issue("second", "127.0.0.1")) as second:
        assert kinds(await seen(url), await seen(second)) == set()
