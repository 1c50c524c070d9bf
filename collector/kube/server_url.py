"""Parses the `server` of a kubeconfig's cluster: a URL as kubectl accepts it, which may include a login."""

import ipaddress
import re
from typing import NamedTuple

from yarl import URL

from collector.kube.connection import ConnectionInfo
from collector.kube.credentials import basic
from collector.kube.errors import BadContextError
from collector.text import one_line
from collector.urls import parse_url

__all__ = ["Server", "parse_server"]


class Server(NamedTuple):
    """The address of an API server."""

    url: URL  # without a login, query and fragment
    host: str  # as written, in upper or lower case
    authorization: str  # header value of the login in the URL, for a user without other credentials


def parse_server(info: ConnectionInfo) -> Server:
    """Return the server of a context; raises BadContextError without the URL, which may contain a password."""
    where = f"{info.where}: server"
    text = info.cluster.server.strip()
    if "://" not in text:
        secure = info.cluster.certificate_authority or info.cluster.certificate_authority_data
        text = f"{'https' if secure or info.cluster.insecure_skip_tls_verify else 'http'}://{text}"
    scheme, _, rest = text.partition("://")
    if scheme.lower() not in {"http", "https"}:
        raise BadContextError(f'{where}: expected https:// or http://, got "{one_line(scheme, 20)}://"')
    try:
        url = parse_url(f"{scheme}://{_bracketed(rest, where)}")
    except ValueError:
        raise BadContextError(f"{where}: not a URL; expected one such as https://10.0.0.1:6443") from None
    if not url.host:
        raise BadContextError(f"{where}: expected a host, as in https://10.0.0.1:6443")
    authorization = ""
    if url.user or url.password:
        try:
            authorization = basic(url.user or "", url.password or "").authorization
        except UnicodeEncodeError:
            raise BadContextError(f"{where}: user and password: expected text") from None
    host = url.raw_host or ""
    place = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if place.lower().startswith(host):
        host = place[: len(host)]
    return Server(url.with_user(None).with_query(None).with_fragment(None), host, authorization)


def _bracketed(rest: str, where: str) -> str:
    """Return the part after the scheme, with an IPv6 address in brackets: kubectl accepts `::1:6443`."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, place = authority.rpartition("@")
    if place.count(":") < 2 or place.startswith("["):
        return rest
    host, _, port = place.rpartition(":")
    try:
        ipaddress.IPv6Address(host)
        int(port)
    except ValueError:
        text = f"{where}: an IPv6 address needs brackets, as in https://[fd00::1]:6443"
        raise BadContextError(text) from None
    return f"{login}{at}[{host}]:{port}{rest[len(authority) :]}"
