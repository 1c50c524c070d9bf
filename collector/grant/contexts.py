"""Builds and writes kubeconfigs with which a collector reaches clusters with its own tokens."""

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from collector.files import read_file, replace_file
from collector.grant.documents import dump
from collector.grant.granting import GrantError
from collector.kube import kubeconfig
from collector.kube.connection import ClusterEntry
from collector.kube.go_values import BadYamlError, load_yaml
from collector.kube.token_request import MadeToken
from collector.text import describe_os_error, one_line

__all__ = ["CollectorContext", "admin_cluster", "check_target", "make_secret", "merged", "token_file", "write"]

SECRET = "gpuid-kubeconfig"  # noqa: S105  a name
SECRET_NAMESPACE = "gpuid"  # noqa: S105

_MARK = [{"name": "gpuid", "extension": {"managed-by": "gpuid"}}]  # of contexts that we wrote
_LISTS = {"clusters": "cluster", "users": "user", "contexts": "context"}


class CollectorContext(NamedTuple):
    """A collector's context; it has the name of the administrator's context."""

    name: str
    cluster: Mapping[str, Any]  # an entry of `clusters`
    token: MadeToken


def admin_cluster(context: str, paths: str | None) -> dict[str, Any]:
    """Return a context's cluster entry, with the certificate authority inline and without any login.

    Raises BadContextError and GrantError.
    """
    info = kubeconfig.find(context, paths)
    entry: ClusterEntry = info.cluster
    authority = entry.certificate_authority_data
    if not authority and entry.certificate_authority:
        try:
            authority = base64.b64encode(read_file(entry.certificate_authority)).decode()
        except (OSError, ValueError) as error:
            why = describe_os_error(error, "cannot be read")
            raise GrantError(f"{info.where}: {one_line(entry.certificate_authority)}: {why}") from None
    found = {
        "server": _without_login(entry.server),
        "certificate-authority-data": authority,
        "tls-server-name": entry.tls_server_name,
        "insecure-skip-tls-verify": entry.insecure_skip_tls_verify,
        "proxy-url": _without_login(entry.proxy_url),
        "disable-compression": entry.disable_compression,
    }
    return {key: value for key, value in found.items() if value}


def token_file(name: str) -> str:
    """Return the file name for a cluster's token, unique per cluster."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:100]
    if safe != name:
        safe += f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{safe}.token"


def make_secret(contexts: Sequence[CollectorContext]) -> dict[str, Any]:
    """Return the Secret with the kubeconfig of a collector in Kubernetes, tokens included."""
    document = merged(None, contexts, {one.name: {"token": one.token.text} for one in contexts})
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "namespace": SECRET_NAMESPACE},
        "type": "Opaque",
        "stringData": {"config": dump([document])},
    }


def check_target(path: Path, names: Sequence[str]) -> None:
    """Raise GrantError if contexts of these names evidently cannot be written to a file."""
    path = path.resolve()
    contexts = [CollectorContext(name, {}, MadeToken(text="")) for name in names]
    merged(_load(path), contexts, {name: {} for name in names}, where=str(path))
    folder = next(folder for folder in path.parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise GrantError(f"{path}: {folder} is not a writable folder")


def write(path: Path, contexts: Sequence[CollectorContext]) -> None:
    """Write contexts to a new or existing kubeconfig of ours, and their tokens to files next to it.

    They are readable only by their owner and replaced atomically. Raises GrantError.
    """
    path = path.resolve()  # a link stays a link
    users = {one.name: {"tokenFile": token_file(one.name)} for one in contexts}
    text = dump([merged(_load(path), contexts, users, where=str(path))])
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for one in contexts:
            replace_file(path.parent / token_file(one.name), one.token.text.encode(), 0o600)
        replace_file(path, text.encode(), 0o600)
    except OSError as error:
        raise GrantError(f"{error.filename or path}: {describe_os_error(error, 'cannot be written')}") from error


def merged(
    document: Mapping[str, Any] | None,
    contexts: Sequence[CollectorContext],
    users: Mapping[str, Mapping[str, Any]],
    *,
    where: str = "",
) -> dict[str, Any]:
    """Return a kubeconfig in which these contexts replace those that we wrote before; all others are kept.

    `users` has the user entry of each context. Raises GrantError for a context that is not ours.
    """
    found: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", **(document or {})}
    for key in _LISTS:
        found[key] = [one for one in found.get(key) or () if isinstance(one, dict)]
    ours = [one.get("name") for one in found["contexts"] if _is_ours(one)]
    for context in contexts:
        entries = {
            "clusters": context.cluster,
            "users": users[context.name],
            "contexts": {"cluster": context.name, "user": context.name, "extensions": _MARK},
        }
        for key, entry in entries.items():
            names = [one.get("name") for one in found[key]]
            item = {"name": context.name, _LISTS[key]: dict(entry)}
            if context.name not in names:
                found[key].append(item)
            elif context.name in ours:
                found[key][names.index(context.name)] = item
            else:
                noun = _LISTS[key]
                raise GrantError(
                    f'{where}: {noun} "{one_line(context.name, 200)}" was not written by gpuid; choose another file'
                )
    if contexts and not found.get("current-context"):
        found["current-context"] = contexts[0].name
    return found


def _is_kubeconfig(document: Mapping[str, Any]) -> bool:
    lists = (document.get(key) or [] for key in _LISTS)
    return document.get("kind") in (None, "Config") and all(isinstance(one, list) for one in lists)


def _is_ours(context: Mapping[str, Any]) -> bool:
    entry = context.get("context")
    return isinstance(entry, dict) and entry.get("extensions") == _MARK


def _without_login(url: str) -> str:
    """Return a URL without user and password, which do not belong to the collector."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else url


def _load(path: Path) -> Mapping[str, Any] | None:
    """Return the kubeconfig in a file; None if there is no file. Raises GrantError."""
    try:
        found = load_yaml(read_file(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise GrantError(f"{path}: {describe_os_error(error, 'cannot be read')}") from error
    except BadYamlError as error:
        raise GrantError(f"{path}: not valid YAML{f' ({error})' if str(error) else ''}") from None
    if found is not None and (not isinstance(found, dict) or not _is_kubeconfig(found)):
        raise GrantError(f"{path}: not a kubeconfig; choose another file")
    return found
