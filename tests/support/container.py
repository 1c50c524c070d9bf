"""Run a program as in a container: its volumes mounted, its root read-only, with a host name and names of other hosts.

Programs and libraries are those of this machine, in the place of an image. It needs the right to mount: root's, or that
of a user namespace, which most kernels give everybody.
"""

import ctypes
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Mount", "contained"]

ROOT = Path(__file__).parents[2]
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER = 0x20000, 0x4000000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
OWN = ("etc", "run", "tmp", "var")  # of the root folder, what a container has of its own
ETC = (
    *("/etc/group", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd"),
    *("/etc/alternatives", "/etc/ssl"),
)
# As the Dockerfile sets them.
ENV = {
    "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONUNBUFFERED": "1",
}


class Mount(NamedTuple):
    """A folder or file of this machine, and where the container has it."""

    source: Path
    target: str
    read_only: bool = True


def contained(
    command: Sequence[str | Path],
    folder: Path,
    *,
    mounts: Iterable[Mount] = (),
    env: Mapping[str, str] = {},
    hosts: Mapping[str, str] = {},
    hostname: str = "",
) -> list[str | Path]:
    """Return the command that runs another one in a container, which is prepared in an empty folder.

    Nothing of this process's environment reaches it.
    """
    (folder / "root").mkdir(parents=True)
    lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in hosts.items())]
    (folder / "hosts").write_text("\n".join(lines) + "\n")
    plan = {
        "root": str(folder / "root"),
        "hosts": str(folder / "hosts"),
        "mounts": [(str(one.source), one.target, one.read_only) for one in mounts],
        "shown": _shown(),
        "command": [str(part) for part in command],
        "env": {**ENV, **({"HOSTNAME": hostname} if hostname else {}), **env},
        "hostname": hostname,
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    return [sys.executable, __file__, folder / "plan.json"]


def _shown() -> list[str]:
    """Return what the program needs of the folders that a container has of its own: a checkout may be in /tmp."""
    needed = {*sys.path, sys.prefix, sys.base_prefix, str(ROOT)}
    hidden = {path for path in needed if path.startswith("/") and Path(path).exists() and Path(path).parts[1] in OWN}
    return sorted(path for path in hidden if not any(path.startswith(f"{other}/") for other in hidden))


class _Mounts:
    """What is mounted, below the folder that becomes the root."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._libc = ctypes.CDLL(None, use_errno=True)

    def call(self, name: str, *values: object) -> None:
        if getattr(self._libc, name)(*values) != 0:
            raise OSError(ctypes.get_errno(), f"{name}{values}: {os.strerror(ctypes.get_errno())}")

    def bind(self, source: str, target: str, *, read_only: bool = False) -> None:
        place = Path(self.root + target)
        if Path(source).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        self.call("mount", source.encode(), bytes(place), None, MS_BIND | MS_REC, None)
        if read_only:
            self.call("mount", None, bytes(place), None, MS_BIND | MS_REMOUNT | MS_RDONLY, None)


def _enter(mounts: _Mounts) -> None:
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        mounts.call("unshare", CLONE_NEWNS | CLONE_NEWUTS)
        return
    mounts.call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWUTS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _lay_out(mounts: _Mounts, hosts: str) -> None:
    """Put what stands for the image below the root."""
    root = Path(mounts.root)
    for entry in Path("/").iterdir():
        if entry.is_symlink():
            (root / entry.name).symlink_to(entry.readlink())
        elif entry.is_dir() and entry.name not in OWN:
            mounts.bind(str(entry), str(entry))
    for name in OWN:
        (root / name).mkdir()
    for path in map(Path, ETC):
        if path.is_dir():
            mounts.bind(str(path), str(path))
        elif path.exists():
            shutil.copy(path, f"{root}{path}")
    shutil.copy(hosts, root / "etc" / "hosts")


def _run(plan_file: str) -> None:
    plan = json.loads(Path(plan_file).read_text())
    root = plan["root"]
    mounts = _Mounts(root)
    _enter(mounts)
    if hostname := plan["hostname"].encode():
        mounts.call("sethostname", hostname, len(hostname))
    mounts.call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    mounts.call("mount", b"tmpfs", root.encode(), b"tmpfs", 0, b"mode=0755")
    _lay_out(mounts, plan["hosts"])
    # Of two mounts the outer one goes first.
    for source, target, read_only in sorted(plan["mounts"], key=lambda one: str(one[1])):
        mounts.bind(source, target, read_only=read_only)
    for path in plan["shown"]:
        mounts.bind(path, path)
    mounts.call("mount", None, root.encode(), None, MS_BIND | MS_REMOUNT | MS_RDONLY, None)
    os.chroot(root)
    os.chdir("/tmp" if os.access("/tmp", os.W_OK) else "/")
    os.execvpe(plan["command"][0], plan["command"], plan["env"])


if __name__ == "__main__":
    _run(sys.argv[1])
