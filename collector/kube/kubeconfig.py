"""Kubeconfig files: the contexts that they hold, and what one of them says."""

import difflib
import functools
import os
import re
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from collector import config
from collector.config import ConfigError
from collector.files import file_stamp
from collector.kube.connection import ClusterEntry, ConnectionInfo, Redacted, User
from collector.kube.errors import UNDECODABLE, BadContextError
from collector.text import describe_os_error, one_line

__all__ = ["SERVICE_ACCOUNT_FOLDER", "Context", "check", "contexts", "find", "in_cluster"]

SERVICE_ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_PARSE_LOCK = threading.Lock()  # a hundred clusters of one file start together, and it is parsed once


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One context of a kubeconfig as a person chooses among them."""

    name: str
    cluster: str
    server: str
    namespace: str
    user: str  # how it authenticates, such as `exec: aws`
    current: bool


def contexts(paths: str | None) -> dict[str, Context]:
    """Return every context of the merged kubeconfigs, by name.

    `paths` is one path or several joined by `:`; None is $KUBECONFIG, then ~/.kube/config. Raises BadContextError.
    """
    merged = _merge(_paths(paths))
    found = {}
    for name, (entry, _) in merged.contexts.items():
        cluster, user = merged.clusters.get(entry.cluster), merged.users.get(entry.user)
        found[name] = Context(
            name=name,
            cluster=entry.cluster,
            server=cluster.entry.server if cluster else "",
            namespace=entry.namespace or "default",
            user=user.entry.kind if user else "none",
            current=name == merged.current,
        )
    return found


def check(clusters: Iterable[config.ClusterSettings]) -> None:
    """Check that each cluster's context exists; raises ConfigError, which names the key and the nearest contexts."""
    for index, cluster in enumerate(clusters):
        if cluster.context is None:
            continue
        try:
            known = contexts(cluster.kubeconfig)
        except BadContextError as error:
            raise ConfigError(f"clusters[{index}].kubeconfig: {error}") from error
        if cluster.context not in known:
            absent = _absent(cluster.context, _paths(cluster.kubeconfig), known)
            raise ConfigError(f"clusters[{index}].context: {absent}")


def find(context: str, paths: str | None) -> ConnectionInfo:
    """Return what `context` says, with absolute paths; `paths` as for contexts(). Raises BadContextError."""
    files = _paths(paths)
    merged = _merge(files)
    if context not in merged.contexts:
        raise BadContextError(_absent(context, files, merged.contexts))
    chosen, file = merged.contexts[context]
    where = f'context "{context}" in {file}'
    cluster = merged.clusters.get(chosen.cluster)
    if cluster is None:
        raise BadContextError(f'{where}: there is no cluster "{chosen.cluster}"')
    if not cluster.entry.server:
        raise BadContextError(f'{where}: cluster "{chosen.cluster}" names no server')
    user = merged.users.get(chosen.user)
    if user is None:
        if chosen.user:
            raise BadContextError(f'{where}: there is no user "{chosen.user}"')
        user = _Found(User(), file)
    return ConnectionInfo(
        where=where,
        folder=str(user.folder),
        cluster=_absolute(cluster, "certificate_authority"),
        user=_absolute(user, "client_certificate", "client_key", "token_file"),
        files=files,
    )


def in_cluster(service_account: Path = SERVICE_ACCOUNT_FOLDER) -> ConnectionInfo:
    """Return how a pod reaches its own cluster, as its service account; raises BadContextError outside of a pod."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise BadContextError(
            "in_cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set; is this a pod?"
        )
    host = f"[{host}]" if ":" in host else host
    return ConnectionInfo(
        where="in_cluster",
        cluster=ClusterEntry(server=f"https://{host}:{port}", certificate_authority=str(service_account / "ca.crt")),
        user=User(token_file=str(service_account / "token")),
    )


class _ContextEntry(Redacted, frozen=True):
    cluster: str = ""
    user: str = ""
    namespace: str = ""


class _NamedCluster(Redacted, frozen=True):
    name: str
    cluster: ClusterEntry | None = None


class _NamedUser(Redacted, frozen=True):
    name: str
    user: User | None = None


class _NamedContext(Redacted, frozen=True):
    name: str
    context: _ContextEntry | None = None


class _File(Redacted, frozen=True):
    current_context: str | None = None
    clusters: tuple[_NamedCluster, ...] | None = None
    users: tuple[_NamedUser, ...] | None = None
    contexts: tuple[_NamedContext, ...] | None = None


_T = TypeVar("_T", bound=Redacted)


class _Found(NamedTuple, Generic[_T]):
    """An entry and the file that it was found in: its relative paths are relative to that."""

    entry: _T
    file: str

    @property
    def folder(self) -> Path:
        return Path(self.file).parent


class _Merged(NamedTuple):
    current: str
    clusters: dict[str, _Found[ClusterEntry]]
    users: dict[str, _Found[User]]
    contexts: dict[str, _Found[_ContextEntry]]


def _paths(paths: str | None) -> tuple[str, ...]:
    given = paths or os.environ.get("KUBECONFIG") or "~/.kube/config"
    return tuple(dict.fromkeys(str(Path(part).expanduser().absolute()) for part in given.split(os.pathsep) if part))


def _merge(files: Collection[str]) -> _Merged:
    """Merge the files as kubectl does: of two entries with one name the first counts."""
    merged = _Merged("", {}, {}, {})
    present = [file for file in files if _present(file)]
    # One missing file among several is normal; if all are missing, opening one of them says so.
    for file in present or files:
        parsed = _read(file)
        merged = merged._replace(current=merged.current or parsed.current_context or "")
        for cluster in parsed.clusters or ():
            merged.clusters.setdefault(cluster.name, _Found(cluster.cluster or ClusterEntry(), file))
        for user in parsed.users or ():
            merged.users.setdefault(user.name, _Found(user.user or User(), file))
        for context in parsed.contexts or ():
            merged.contexts.setdefault(context.name, _Found(context.context or _ContextEntry(), file))
    return merged


def _present(file: str) -> bool:
    try:
        Path(file).stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _read(file: str) -> _File:
    try:
        stamp = file_stamp(file)
        with _PARSE_LOCK:
            return _parse(file, stamp) if stamp else _parse.__wrapped__(file, stamp)  # which raises why, as a rule
    except OSError as error:
        raise BadContextError(f"{file}: {describe_os_error(error, 'cannot be read')}") from error


@functools.lru_cache(maxsize=16)
def _parse(file: str, version: object) -> _File:
    del version  # a cache key: the file is parsed again when it has changed
    content = Path(file).read_bytes()
    try:
        return msgspec.yaml.decode(content, type=_File | None) or _File()
    except msgspec.ValidationError as error:
        if " - at " not in str(error):
            raise BadContextError(f"{file}: not a kubeconfig: expected clusters, contexts and users") from error
        raise BadContextError(f"{file}: not a kubeconfig: {one_line(str(error), 200)}") from error
    except msgspec.DecodeError as error:
        # Only the line's number: a parser may quote the text around the mistake, and that may be a token.
        lines = re.findall(r", line (\d+), column", str(error))
        line = f" (line {lines[-1]})" if lines else ""
        raise BadContextError(f"{file}: not valid YAML{line}") from None
    except UNDECODABLE:  # such as a number of thousands of digits; the text may quote it
        raise BadContextError(f"{file}: not a kubeconfig: a value that cannot be read") from None


def _absolute(found: _Found[_T], *fields: str) -> _T:
    """Return the entry with paths resolved against the file that they are in."""
    paths: dict[str, Any] = {
        field: str(found.folder / path) for field in fields if (path := getattr(found.entry, field))
    }
    return msgspec.structs.replace(found.entry, **paths)


def _absent(context: str, files: Collection[str], known: Collection[str]) -> str:
    nearest = sorted(known, key=lambda name: -difflib.SequenceMatcher(None, context, name).ratio())[:10]
    there = f"there are: {', '.join(nearest)}" if nearest else "there are none"
    return f'no context "{context}" in {os.pathsep.join(files)}; {there}'
