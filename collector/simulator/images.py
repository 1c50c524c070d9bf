"""Simulates the programs in a container: by $PATH or full path, a shell and `chroot`."""

import shlex
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["EMPTY_IMAGE", "PATH", "Image", "Started", "start"]

PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

_SHELLS = ("sh", "bash")
_NOT_FOUND = 127  # exit status of a shell or chroot that does not find the program


class Image(NamedTuple):
    """The programs that the simulation knows of in a container: those that a client may start, and nvidia-smi."""

    files: frozenset[str] = frozenset()  # full paths, also below a directory that serves as a root
    path: tuple[str, ...] = PATH  # the directories in $PATH

    def without(self, program: str) -> "Image":
        """Return an image that lacks a program, wherever it is."""
        return self._replace(files=frozenset(file for file in self.files if not file.endswith(f"/{program}")))

    def find(self, name: str, root: str = "") -> str:
        """Return the full path of a program, as seen below `root`; empty if there is none."""
        places = [name] if "/" in name else [f"{folder}/{name}" for folder in self.path]
        return next((place for place in places if root + place in self.files), "")


class Started(NamedTuple):
    """The result of starting a command: the program that finally runs, or the one that reports it missing."""

    program: str = ""  # without its folder
    runtime_error: str = ""  # of the container runtime, which starts nothing
    exit_status: int = 0
    stderr: str = ""


EMPTY_IMAGE = Image()


def start(image: Image, argv: Sequence[str]) -> Started:
    """Return the program that a command finally runs in a container of this image."""
    file = image.find(argv[0])
    if not file:
        said = f"stat {argv[0]}: no such file or directory" if "/" in argv[0] else "executable file not found in $PATH"
        return Started(runtime_error=f'exec: "{argv[0]}": {said}')
    name = file.rpartition("/")[2]
    if name in _SHELLS and len(argv) > 2 and argv[1].startswith("-") and argv[1].endswith("c"):
        return _run_script(image, name, argv[2])
    if name == "chroot" and len(argv) > 2:
        return _change_root(image, argv[1].rstrip("/"), argv[2])
    return Started(program=name)


def _run_script(image: Image, shell: str, script: str) -> Started:
    try:
        words = shlex.split(script)
    except ValueError:
        words = script.split()
    while words and (words[0] == "exec" or "=" in words[0]):
        words = words[1:]
    program = words[0] if words else ""
    file = image.find(program)
    if not file:
        return Started(exit_status=_NOT_FOUND, stderr=f"{shell}: 1: {program}: not found\n")
    return start(image, words)


def _change_root(image: Image, root: str, program: str) -> Started:
    """Start a program as busybox's chroot does."""
    if not any(file.startswith(f"{root}/") for file in image.files):
        text = f"chroot: can't change root directory to '{root}': No such file or directory\n"
        return Started(exit_status=1, stderr=text)
    file = image.find(program, root)
    if not file:
        text = f"chroot: can't execute '{program}': No such file or directory\n"
        return Started(exit_status=_NOT_FOUND, stderr=text)
    return Started(program=file.rpartition("/")[2])
