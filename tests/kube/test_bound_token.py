"""What a token says of itself, whatever it is."""

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.kube.bound_token import MAX_TOKEN_LENGTH, BoundObject, bound_token, expiry_problem
from collector.simulator.service_accounts import ServiceAccounts
from collector.tls import Validity
from tests.fuzz.documents import damaged, json_documents
from tests.support.tokens import AUDIENCE, service_account_token

MADE = 1_800_000_000


def test_a_service_accounts_token_is_read():
    token = bound_token(service_account_token(MADE))
    assert token is not None
    assert (token.namespace, token.name, token.uid) == ("gpuid", "collector", "uid-1")
    assert token.user == "system:serviceaccount:gpuid:collector"
    assert token.validity == Validity(MADE, MADE + 3600)
    assert token.audiences == (AUDIENCE,)
    assert token.bound_to is None
    assert not token.of_pod
    assert "s3cr3t" not in repr(token)


def test_the_simulator_makes_such_tokens():
    token = bound_token(ServiceAccounts(lambda: MADE).issue("gpuid", "gpuid", 600))
    assert token is not None
    assert (token.user, token.lifetime) == ("system:serviceaccount:gpuid:gpuid", 600)


def test_one_audience_may_be_a_string():
    token = bound_token(service_account_token(MADE, aud="a"))
    assert token is not None
    assert token.audiences == ("a",)


@pytest.mark.parametrize(
    ("bound", "expected"),
    [
        ({"secret": {"name": "s", "uid": "1"}}, BoundObject("Secret", "s", "1")),
        ({"node": {"name": "n", "uid": "2"}}, BoundObject("Node", "n", "2")),
        ({"pod": {"name": "p", "uid": "3"}, "node": {"name": "n", "uid": "2"}}, BoundObject("Pod", "p", "3")),
    ],
)
def test_it_may_be_bound_to_an_object(bound, expected):
    token = bound_token(service_account_token(MADE, bound=bound))
    assert token is not None
    assert token.bound_to == expected
    assert token.of_pod == ("pod" in bound)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "opaque",
        "a.b",
        "a.b.c.d",
        "..",
        service_account_token(MADE) + "\n",
        service_account_token(MADE) + " ",
        service_account_token(MADE) + "é",
        service_account_token(MADE, exp=None),
        service_account_token(MADE, exp="later"),
        service_account_token(MADE, exp=1e300),
        service_account_token(MADE, exp=MADE),
        service_account_token(MADE, exp=True),
        service_account_token(MADE, iat=None),
        service_account_token(MADE, iat=-1),
        service_account_token(MADE, sub=None),
        service_account_token(MADE, sub="system:serviceaccount:gpuid:other"),
        service_account_token(MADE, sub="jane"),
        service_account_token(MADE, name="../../secrets/x"),
        service_account_token(MADE, name="a b"),
        service_account_token(MADE, name=""),
        service_account_token(MADE, namespace="a/b"),
        service_account_token(MADE, namespace="A"),
        service_account_token(MADE, name="a" * 254),
        service_account_token(MADE, aud=["a"] * 33),
        service_account_token(MADE, aud=[1]),
        service_account_token(MADE, bound={"namespace": None}),
        service_account_token(MADE, bound={"serviceaccount": []}),
        service_account_token(MADE, signature="a" * MAX_TOKEN_LENGTH),
    ],
)
def test_any_other_token_is_not_recognised(token):
    assert bound_token(token) is None


_claims = json_documents("sub", "exp", "iat", "aud", "kubernetes.io", "namespace", "serviceaccount", "name", "uid")


@given(
    st.one_of(st.text(), _claims.map(lambda body: f"e30.{base64.urlsafe_b64encode(body).decode().rstrip('=')}.c2ln"))
)
@example("e30.e30.e30")
@example("a." + base64.urlsafe_b64encode(b"[" * 6000).decode().rstrip("=") + ".c")
@example("a." + base64.urlsafe_b64encode(b'{"exp": 1e999}').decode().rstrip("=") + ".c")
def test_no_text_raises_an_error(text):
    assert bound_token(text) is None


@given(damaged(service_account_token(MADE).encode()))
def test_a_damaged_token_reads_the_same_or_not_at_all(content):
    text = content.decode("utf-8", "replace")
    token = bound_token(text)
    assert token is None or (token.text == text and token.lifetime > 0)


@given(
    made=st.integers(0, 4_000_000_000),
    lifetime=st.integers(1, 1 << 32),
    name=st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True),
    audiences=st.lists(st.text(max_size=20), max_size=32),
)
def test_every_real_token_round_trips(made, lifetime, name, audiences):
    token = bound_token(service_account_token(made, lifetime, name=name, aud=audiences))
    assert token is not None
    assert (token.validity, token.name) == ((made, made + lifetime), name)
    assert token.audiences == tuple(audiences)


def test_an_expired_token_says_how_to_get_another():
    token = bound_token(service_account_token(MADE))
    assert token is not None
    assert expiry_problem(token, MADE + 3599) == ""
    assert expiry_problem(token, MADE + 3600) == (
        "the token of system:serviceaccount:gpuid:collector expired on 2027-01-15T09:00:00Z and gpuid cannot renew it;"
        " replace it"
    )
