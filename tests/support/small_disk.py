"""A small file system of its own, to be filled: a tmpfs in a mount namespace that only the test's programs are in.

It needs the right to mount: root's, or that of a user namespace, which most kernels give everybody. The test reaches
the folder through /proc.
"""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import until

__all__ = ["SmallDisk", "small_disk"]

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_RDONLY, MS_REMOUNT, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x4000, 0x40000
INNER_ID = 1000  # of the user in a user namespace: PostgreSQL does not run as root


class SmallDisk:
    """The folder `path`, as the programs see it that are started with `command`."""

    def __init__(self, holder: "subprocess.Popen[bytes]", path: Path, *, user_namespace: bool) -> None:
        self.path = path
        self._process = holder
        self._holder = holder.pid
        self._user_namespace = user_namespace

    @property
    def seen_from_outside(self) -> Path:
        """The same folder for the test itself."""
        return Path(f"/proc/{self._holder}/root{self.path}")

    def command(self, *command: str | Path, user: int | None = None, group: int | None = None) -> list[str]:
        """Return a command that runs another one where the disk is; as root, for a user."""
        if self._user_namespace:
            entering = ["--user", "--preserve-credentials"]
        else:
            entering = (
                [] if user is None else ["--setuid", str(user), "--setgid", str(user if group is None else group)]
            )
        return ["nsenter", "--target", str(self._holder), "--mount", *entering, "--", *map(str, command)]

    def fill(self) -> int:
        """Leave no free byte; returns how many there were."""
        written = 0
        with (self.seen_from_outside / "filler").open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                while True:
                    try:
                        written += file.write(b"\0" * size)
                    except OSError as error:
                        if error.errno != errno.ENOSPC:
                            raise
                        break
        return written

    def make_read_only(self, read_only: bool = True) -> None:
        """Let nobody write, or again; while no file is open for writing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{MS_RDONLY if read_only else 0}\n".encode())
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"done\n"

    def make_room(self) -> None:
        """Remove what `fill` has written."""
        (self.seen_from_outside / "filler").unlink()


@contextmanager
def small_disk(path: Path, *, megabytes: int, owner: int | None = None) -> Iterator[SmallDisk]:
    """Mount a disk on a folder, which is made; skips where neither root nor a user namespace may mount."""
    path.mkdir(parents=True, exist_ok=True)
    if shutil.which("nsenter") is None:
        pytest.skip("no nsenter on PATH: install Debian's package util-linux")
    refused = []
    for user_namespace in (False, True):
        holder = subprocess.Popen(
            [sys.executable, __file__, str(path), str(megabytes), str(int(user_namespace)), str(owner or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdin is not None
        assert holder.stdout is not None
        with holder, holder.stdin, holder.stdout:
            answer = holder.stdout.readline().decode().strip()
            if answer == "mounted":
                until(lambda: (Path(f"/proc/{holder.pid}/root{path}") / ".mounted").exists())  # noqa: B023
                try:
                    yield SmallDisk(holder, path, user_namespace=user_namespace)
                finally:
                    holder.stdin.close()  # which ends it, and with it the disk
                    holder.wait(60)
                return
        refused.append(answer)
    pytest.skip(f"neither this user nor a user namespace may mount a tmpfs: {'; '.join(refused)}")


def _hold(arguments: Sequence[str]) -> None:
    """Mount the disk and keep it until standard input ends; says "mounted", or why not."""
    path, megabytes, user_namespace, owner = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()

    def call(name: str, *values: object) -> None:
        if getattr(libc, name)(*values) != 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    try:
        if user_namespace == "1":
            call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{INNER_ID} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{INNER_ID} {group} 1")
            options = f"size={megabytes}m,mode=0700,uid={INNER_ID},gid={INNER_ID}"
        else:
            call("unshare", CLONE_NEWNS)
            options = f"size={megabytes}m,mode=0700,uid={owner}"
        call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        call("mount", b"tmpfs", path.encode(), b"tmpfs", 0, options.encode())
        Path(path, ".mounted").touch()
    except OSError as error:
        sys.stdout.write(f"{error.strerror}\n")
        return
    sys.stdout.write("mounted\n")
    sys.stdout.flush()
    for flags in sys.stdin:
        call("mount", b"tmpfs", path.encode(), b"tmpfs", MS_REMOUNT | int(flags), b"")
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _hold(sys.argv[1:])
