"""Kubeconfig files: their contexts, and the settings of each.

Read as kubectl reads them, except that mistakes are contained: an invalid entry affects only its own contexts, and an
unreadable file only the contexts that it may define.
"""

import difflib
import functools
import os
import re
import threading
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from collector.files import file_stamp, in_time, read_file
from collector.kube.connection import ClusterEntry, ConnectionInfo, Redacted, User
from collector.kube.errors import BadContextError
from collector.kube.go_values import BadYamlError, WrongTypeError, convert, load_yaml
from collector.text import describe_os_error, one_line

__all__ = ["SERVICE_ACCOUNT_FOLDER", "Context", "contexts", "find", "in_cluster"]

SERVICE_ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# A hundred clusters from one file start at the same time, and it is parsed once.
_parse_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """One context of a kubeconfig, as listed to choose from."""

    name: str
    cluster: str
    server: str
    namespace: str
    user: str  # authentication method, such as `exec: aws`
    current: bool
    problem: str = ""  # why it is unusable, with the file


def contexts(paths: str | None) -> dict[str, Context]:
    """Return every context of the merged kubeconfigs, by name.

    `paths` is one path or several joined by `:`; None is $KUBECONFIG, then ~/.kube/config. Raises BadContextError if
    there is none, with the reason.
    """
    files = _paths(paths)
    merged = _merge(files)
    if not merged.contexts:
        raise BadContextError(f"{_named(files)}: {_emptiness(files, merged)}")
    found = {}
    for name, context in merged.contexts.items():
        entry = _ContextEntry() if isinstance(context.entry, _Wrong) else context.entry
        cluster, user = merged.clusters.get(entry.cluster), merged.users.get(entry.user)
        found[name] = Context(
            name=name,
            cluster=entry.cluster,
            server=cluster.entry.server if cluster and isinstance(cluster.entry, ClusterEntry) else "",
            namespace=entry.namespace or "default",
            user=user.entry.kind if user and isinstance(user.entry, User) else "none",
            current=name == merged.current,
            problem=_problem(name, files, merged),
        )
    return found


def find(context: str, paths: str | None) -> ConnectionInfo:
    """Return the settings of `context`, with absolute paths; `paths` as for contexts(). Raises BadContextError."""
    files = _paths(paths)
    return _find(context, files, _merge(files))


def in_cluster(service_account: Path = SERVICE_ACCOUNT_FOLDER) -> ConnectionInfo:
    """Return a pod's connection to its own cluster, as its service account; raises BadContextError outside a pod."""
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


class _Wrong(NamedTuple):
    """What is wrong with an entry."""

    text: str


_T = TypeVar("_T", bound=Redacted)


class _File(NamedTuple):
    """One file; of two entries with one name the first wins."""

    current: str
    clusters: Mapping[str, ClusterEntry | _Wrong]
    users: Mapping[str, User | _Wrong]
    contexts: Mapping[str, _ContextEntry | _Wrong]
    faults: tuple[str, ...]  # problems of unnamed entries and of whole lists


class _Found(NamedTuple, Generic[_T]):
    """An entry and the file that it was found in, to which its relative paths refer."""

    entry: _T | _Wrong
    file: str

    @property
    def folder(self) -> Path:
        return Path(self.file).parent


class _Merged(NamedTuple):
    current: str
    clusters: dict[str, _Found[ClusterEntry]]
    users: dict[str, _Found[User]]
    contexts: dict[str, _Found[_ContextEntry]]
    faults: list[str]  # each with its file
    unreadable: dict[str, BadContextError]  # by file


def _paths(paths: str | None) -> tuple[str, ...]:
    given = paths or os.environ.get("KUBECONFIG") or "~/.kube/config"
    try:
        files = (str(Path(part).expanduser().absolute()) for part in given.split(os.pathsep) if part)
        found = tuple(dict.fromkeys(files))
    except RuntimeError:
        raise BadContextError(f"kubeconfig {one_line(given, 200)}: there is no such home directory") from None
    if not found:
        raise BadContextError(f'{"kubeconfig" if paths else "KUBECONFIG"} "{one_line(given, 200)}" names no file')
    return found


def _merge(files: Collection[str]) -> _Merged:
    """Merge the files as kubectl does: of two entries with one name the first wins.

    Raises BadContextError if no file can be read.
    """
    merged = _Merged("", {}, {}, {}, [], {})
    present = [file for file in files if _present(file)]
    # One missing file among several is normal; if all are missing, opening one of them reports it.
    for file in present or files:
        try:
            parsed = _read(file)
        except BadContextError as error:
            merged.unreadable[file] = error
            continue
        merged = merged._replace(current=merged.current or parsed.current)
        merged.faults.extend(f"{file}: {fault}" for fault in parsed.faults)
        for name, cluster in parsed.clusters.items():
            merged.clusters.setdefault(name, _Found(cluster, file))
        for name, user in parsed.users.items():
            merged.users.setdefault(name, _Found(user, file))
        for name, context in parsed.contexts.items():
            merged.contexts.setdefault(name, _Found(context, file))
    if len(merged.unreadable) == len(present or files):
        raise next(iter(merged.unreadable.values()))
    return merged


def _find(context: str, files: tuple[str, ...], merged: _Merged) -> ConnectionInfo:
    found = merged.contexts.get(context)
    _check_shadows(context, found, files, merged)
    if found is None:
        raise BadContextError(_absent(context, files, merged))
    where = f'context "{one_line(context, 200)}" in {found.file}'
    chosen = _entry(found, where)
    cluster = merged.clusters.get(chosen.cluster)
    _check_shadows(chosen.cluster, cluster, files, merged)
    if cluster is None:
        raise BadContextError(_lost(f'{where}: no cluster "{one_line(chosen.cluster, 100)}"', merged))
    entry = _entry(cluster, where)
    if not entry.server:
        raise BadContextError(f'{where}: cluster "{one_line(chosen.cluster, 100)}" has no server')
    user = merged.users.get(chosen.user)
    _check_shadows(chosen.user, user, files, merged)
    if user is None:
        if chosen.user:
            raise BadContextError(_lost(f'{where}: no user "{one_line(chosen.user, 100)}"', merged))
        user = _Found(User(), found.file)
    return ConnectionInfo(
        where=where,
        folder=str(user.folder),
        cluster=_absolute(entry, cluster.folder, "certificate_authority"),
        user=_absolute(_entry(user, where), user.folder, "client_certificate", "client_key", "token_file"),
        user_name=chosen.user,
        namespace=chosen.namespace,
        files=files,
    )


def _entry(found: _Found[_T], where: str) -> _T:
    if isinstance(found.entry, _Wrong):
        elsewhere = "" if where.endswith(f" in {found.file}") else f"{found.file}: "
        raise BadContextError(f"{where}: {elsewhere}{found.entry.text}")
    return found.entry


def _problem(context: str, files: tuple[str, ...], merged: _Merged) -> str:
    try:
        _find(context, files, merged)
    except BadContextError as error:
        return str(error)
    return ""


def _check_shadows(name: str, found: _Found[Any] | None, files: Collection[str], merged: _Merged) -> None:
    """Raise BadContextError if an unreadable file may hold the effective entry, rather than use another one instead."""
    if not name:
        return
    for file in files:
        if found is not None and file == found.file:
            return
        if (error := merged.unreadable.get(file)) is not None and _may_name(file, name):
            raise BadContextError(f'{error}; "{one_line(name, 100)}" may be in it')


def _may_name(file: str, name: str) -> bool:
    """Return whether an unparsable file seems to have an entry of that name."""
    try:
        content = in_time(file, functools.partial(read_file, file))
    except IsADirectoryError:
        return False
    except (OSError, ValueError):
        return True
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    entry = rf"""name["']?\s*:\s*["']?{re.escape(name)}["']?\s*(?:[,}}#\r\n]|$)"""
    return re.search(entry, content.decode(encoding, "ignore")) is not None


def _present(file: str) -> bool:
    try:
        in_time(file, Path(file).stat)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return True


def _read(file: str) -> _File:
    try:
        stamp = in_time(file, functools.partial(file_stamp, file))
        with _parse_locks[file]:
            # If the file cannot be stamped, opening it usually says why.
            parsed = _parse(file, stamp) if stamp else _parse.__wrapped__(file, stamp)
    except (OSError, ValueError) as error:
        raise BadContextError(f"{one_line(file)}: {describe_os_error(error, 'cannot be read')}") from None
    if isinstance(parsed, _Wrong):
        raise BadContextError(f"{file}: {parsed.text}")
    return parsed


@functools.lru_cache(maxsize=16)
def _parse(file: str, version: object) -> _File | _Wrong:
    """Return the content of a file; errors are returned, not raised, so that they are cached as well."""
    del version  # a cache key: a changed file is parsed again
    content = in_time(file, functools.partial(read_file, file))
    if content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return _Wrong("not a kubeconfig but an HTML or XML page")
    try:
        document = load_yaml(content)
    except BadYamlError as error:
        return _Wrong(f"not valid YAML ({error})" if str(error) else "not valid YAML")
    if document is None:
        return _File("", {}, {}, {}, ("the file is empty",))
    if not isinstance(document, dict):
        return _Wrong("not a kubeconfig: expected clusters, contexts and users")
    kind = document.get("kind")
    if kind is not None and kind not in ("", "Config"):
        article = f"a {one_line(kind, 40)}" if isinstance(kind, str) else "something else"
        return _Wrong(f"not a kubeconfig: it is {article}; expected kind: Config")
    faults: list[str] = []
    current = document.get("current-context")
    return _File(
        current=current if isinstance(current, str) else "",
        clusters=_entries(document, "cluster", ClusterEntry, faults),
        users=_entries(document, "user", User, faults),
        contexts=_entries(document, "context", _ContextEntry, faults),
        faults=tuple(faults),
    )


def _entries(document: dict[str, Any], noun: str, kind: type[_T], faults: list[str]) -> dict[str, _T | _Wrong]:
    """Return the entries of a list by name; problems of unnamed entries are added to `faults`."""
    listed = document.get(f"{noun}s")
    if listed is not None and not isinstance(listed, list):
        faults.append(f"{noun}s: expected a list")
        listed = None
    found: dict[str, _T | _Wrong] = {}
    for index, item in enumerate(listed or ()):
        item = {} if item is None else item
        if not isinstance(item, dict):
            faults.append(f"{noun}s[{index}]: expected a name and a {noun}")
            continue
        name = item.get("name")
        if name is None or isinstance(name, str):
            found.setdefault(name or "", _converted(item.get(noun), kind, f'{noun} "{one_line(name, 100)}"'))
        else:
            # Under the intended name, so that a look-up reports why it is missing.
            text = f"{noun}s[{index}].name: expected text; put it in quotes"
            faults.append(text)
            if isinstance(name, (int, float)):
                found.setdefault(str(name), _Wrong(text))
    return found


def _converted(value: Any, kind: type[_T], what: str) -> _T | _Wrong:
    try:
        return convert(value, kind)
    except WrongTypeError as error:
        return _Wrong(f"{what}: {one_line(error, 200)}")


def _absolute(entry: _T, folder: Path, *fields: str) -> _T:
    """Return the entry with paths resolved against the directory of its file."""
    paths: dict[str, Any] = {field: str(folder / path) for field in fields if (path := getattr(entry, field))}
    return msgspec.structs.replace(entry, **paths)


def _named(files: Collection[str]) -> str:
    return os.pathsep.join(files)


def _emptiness(files: Collection[str], merged: _Merged) -> str:
    reasons = [*map(str, merged.unreadable.values()), *merged.faults]
    if len(files) == 1:
        reasons = [reason.removeprefix(f"{next(iter(files))}: ") for reason in reasons]
    return "no contexts" + (f" ({'; '.join(one_line(reason, 300) for reason in reasons[:3])})" if reasons else "")


def _lost(text: str, merged: _Merged) -> str:
    """Return the text with the other problems, which may explain why something is missing."""
    reasons = [*map(str, merged.unreadable.values()), *merged.faults]
    return one_line("; ".join([text, *(one_line(reason, 300) for reason in reasons[:3])]), 1000)


def _absent(context: str, files: Collection[str], merged: _Merged) -> str:
    known = merged.contexts
    nearest = sorted(known, key=lambda name: -difflib.SequenceMatcher(None, context, name).ratio())[:10]
    there = f"there are: {', '.join(one_line(name, 50) for name in nearest)}" if nearest else "there are none"
    return _lost(f'no context "{one_line(context, 200)}" in {_named(files)}; {there}', merged)
