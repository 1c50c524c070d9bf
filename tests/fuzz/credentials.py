"""What gives access: plugins, identity providers, tokens and the users of a kubeconfig."""

import base64
from typing import TypeVar

from hypothesis import strategies as st

from collector.kube import authentication, oidc
from collector.kube.bound_token import bound_token
from collector.kube.connection import AuthProvider, ClusterEntry, ConnectionInfo, Exec, User
from collector.kube.credential_plugin import CredentialPlugin
from collector.kube.credentials import bearer, impersonation
from collector.kube.errors import BadContextError, ClusterError, CredentialPluginFailedError
from collector.redaction import Secrets
from tests.fuzz.documents import any_text, json_documents, texts
from tests.fuzz.target import Target, Targets, bytes_target, refusing, text_target

__all__ = ["TARGETS"]

T = TypeVar("T")

_PLUGIN = CredentialPlugin(
    ConnectionInfo(
        where="x",
        cluster=ClusterEntry(),
        user=User(exec=Exec(command="x", api_version="client.authentication.k8s.io/v1", interactive_mode="Never")),
    )
)
_LOGIN = oidc.Oidc(
    ConnectionInfo(
        where="x",
        cluster=ClusterEntry(),
        user=User(
            auth_provider=AuthProvider(name="oidc", config={"idp-issuer-url": "https://issuer", "client-id": "x"})
        ),
    )
)
CREDENTIAL = ("kind", "apiVersion", "status", "token", "clientCertificateData", "clientKeyData", "expirationTimestamp")
credentials = json_documents(
    *CREDENTIAL,
    values=["ExecCredential", "client.authentication.k8s.io/v1", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"],
)
whole_credentials = st.builds(
    lambda status: b'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":' + status + b"}",
    credentials,
)
tokens = json_documents("id_token", "refresh_token", "error", "token_endpoint", "exp")


def _issuer(given: tuple[int, bytes, str | None]) -> None:
    answer = oidc._Answer(*given)
    with refusing(ClusterError):
        _LOGIN._accept(answer)
    with refusing(ClusterError):
        _LOGIN._grant(_LOGIN._decode(answer, oidc._Discovery))
    oidc._code(answer)


def _token(text: str) -> None:
    oidc._expiry(text)
    bound_token(text)
    bearer(text, "x")


CLAIMS = ("exp", "iat", "sub", "aud", "kubernetes.io", "namespace", "serviceaccount", "name", "uid", "pod")
jwts = st.builds(
    lambda head, claims, tail: f"{head}.{claims}.{tail}",
    texts,
    json_documents(*CLAIMS).map(lambda body: _base64(body)) | texts,
    texts,
)


def _base64(body: bytes) -> str:
    return base64.urlsafe_b64encode(body).decode()


def _user(given: tuple[str, str, str]) -> None:
    name, password, token = given
    for user in (User(username=name, password=password), User(token=token), User(as_user=name, as_groups=(token,))):
        info = ConnectionInfo(where="x", cluster=ClusterEntry(), user=user)
        with refusing(BadContextError):
            authentication.choose(info, lambda: 0.0, Secrets())
        with refusing(BadContextError):
            impersonation(user, "x")


TARGETS: Targets = {
    "plugin": bytes_target(_PLUGIN._credential, credentials | whole_credentials, CredentialPluginFailedError),
    "issuer": Target(_issuer, st.tuples(st.sampled_from([200, 302, 400, 401, 500]), tokens, st.none() | any_text)),
    "token": text_target(_token, jwts | any_text, BadContextError),
    "user": Target(_user, st.tuples(any_text, any_text, any_text)),
}
