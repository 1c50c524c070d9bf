"""The commands of a document, run in order as its reader would run them, with pods in place of those of a kubelet."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.control_plane.plane import ControlPlane, binaries
from tests.control_plane.pods import Pod

__all__ = ["ROOT", "Reader", "shell_blocks"]

ROOT = Path(__file__).parents[2]
EXEC = "kubectl --namespace gpuid exec deploy/gpuid -- gpuid "
# What no test runs: an installation of its own is in .ci/run, and no container engine is here.
ELSEWHERE = re.compile(r"python3 -m venv |docker (build|push) ")


def shell_blocks(document: str) -> list[list[str]]:
    """Return the commands of each block of shell in a document of the repository."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [[line for line in block.replace("\\\n", " ").splitlines() if line.strip()] for block in blocks]


class Reader:
    """A user with a clone of the repository and a kubeconfig, whose current context is that of the hub."""

    def __init__(self, hub: ControlPlane, folder: Path, kubeconfig: str, start: Callable[[], Pod]) -> None:
        self.clone = folder / "clone"
        for name in ("config", "grafana"):
            shutil.copytree(ROOT / name, self.clone / name, symlinks=True, ignore=shutil.ignore_patterns("*.py"))
        (folder / "home" / ".kube").mkdir(parents=True)
        self.kubeconfig = folder / "home" / ".kube" / "config"
        self.kubeconfig.write_text(kubeconfig)
        self.kubeconfig.chmod(0o600)
        programs = binaries()
        assert programs is not None
        path = [Path(sys.executable).parent, programs, *os.environ["PATH"].split(":")]
        self._env = {"HOME": str(folder / "home"), "PATH": ":".join(map(str, path))}
        self._start = start
        self.pod: Pod | None = None

    def run(self, command: str) -> str:
        """Run one command and return what it prints; those that reach into the pod start it."""
        if ELSEWHERE.match(command):
            return ""
        if command.startswith("kubectl") and "port-forward" in command:
            assert self.collector.text("/readyz")
            return ""
        if command.startswith(EXEC):
            done = self.collector.execute(*command.removeprefix(EXEC).split())
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=self.clone,
                env=self._env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
            )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def collector(self) -> Pod:
        """The pod, which runs once somebody asks for it."""
        if self.pod is None:
            self.pod = self._start()
        return self.pod
