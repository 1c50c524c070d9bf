"""Helm, as tests/control_plane/build makes it."""

import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.control_plane.plane import binaries

__all__ = ["Helm", "by_name", "documents"]

Helm = Callable[..., subprocess.CompletedProcess[str]]
Object = dict[str, Any]

KUBERNETES = "1.34.0"


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Run helm with arguments; with `check=False`, whatever its exit status."""
    programs = binaries()
    if programs is None or not (programs / "helm").is_file():
        pytest.skip("no helm in $KUBEBUILDER_ASSETS or the cache: run tests/control_plane/build")
    home = str(tmp_path_factory.mktemp("helm"))

    def run(*arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [programs / "helm", *arguments]
        if arguments[0] in ("template", "lint") and "--kube-version" not in arguments:
            command += ["--kube-version", KUBERNETES]  # else that of helm's build, which sets none: 1.20
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env={"HOME": home, "PATH": os.environ["PATH"]}
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


def documents(text: str) -> list[Object]:
    """Return the objects of a YAML stream."""
    return [one for one in yaml.safe_load_all(text) if one]


def by_name(objects: Iterable[Object]) -> dict[str, Object]:
    """Return objects by `Kind name`."""
    return {f"{one['kind']} {one['metadata']['name']}": one for one in objects}
