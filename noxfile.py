"""The commands that people and CI share: `nox` runs what every change needs, `nox --list` names the rest.

Each session has an environment of its own. `nox --no-venv` takes the programs on PATH instead, as `.ci/run` does.
"""

import json
import os
import re
import shutil
from pathlib import Path

import nox

SBOM = Path("dist/gpuid.cdx.json")
VERSION = Path("collector/__init__.py")
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

nox.needs_version = ">=2025.2"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "spelling", "types", "layers", "quick"]


def needs(session: nox.Session, *packages: str) -> None:
    """Install what a session runs, unless it takes what is there."""
    if session.venv_backend != "none":
        session.install(*packages)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    needs(session, "ruff>=0.14")
    session.run("ruff", "check", ".", external=True)
    session.run("ruff", "format", "--check", ".", external=True)


@nox.session
def spelling(session: nox.Session) -> None:
    """Look for misspelled words."""
    needs(session, "codespell>=2.4")
    session.run("codespell", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    needs(session, "-e", ".[dev]")
    session.run("mypy", external=True)


@nox.session
def layers(session: nox.Session) -> None:
    """Check which room imports what."""
    needs(session, "-e", ".[dev]")
    session.run("lint-imports", external=True)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests that need neither servers nor browsers, on one version of Python; arguments go to pytest."""
    needs(session, "-e", ".[test]")
    session.run("pytest", "-m", "bulk or not slow", *session.posargs, external=True)


@nox.session
def quick(session: nox.Session) -> None:
    """Run what ends within about a minute on the Python at hand."""
    needs(session, "-e", ".[test]")
    session.run("pytest", "-m", "not slow", *session.posargs, external=True)


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflows, with actionlint as well if it is on PATH: its Go module is github.com/rhysd/actionlint."""
    needs(session, "zizmor>=1.16")
    session.run("zizmor", "--offline", "--persona", "pedantic", "--quiet", ".github", external=True)
    if shutil.which("actionlint"):
        session.run("actionlint", "-color", external=True)
    elif os.environ.get("GPUID_REQUIRE_ALL") == "1":
        session.error("no actionlint on PATH")


@nox.session
def audit(session: nox.Session) -> None:
    """Ask whether a locked package has a known vulnerability; needs the package index's own service."""
    needs(session, "pip-audit>=2.9")
    for lock in ("requirements.lock", "requirements-build.lock"):
        session.run("pip-audit", "--require-hashes", "--disable-pip", "--strict", "-r", lock, external=True)


@nox.session
def sbom(session: nox.Session) -> None:
    """Write dist/gpuid.cdx.json: what the image's lock holds, in CycloneDX."""
    needs(session, "cyclonedx-bom>=7")
    SBOM.parent.mkdir(exist_ok=True)
    session.run(
        "cyclonedx-py", "requirements", "requirements.lock", "--pyproject", "pyproject.toml", "--output-reproducible",
        "--spec-version", "1.6", "--output-format", "JSON", "--output-file", str(SBOM), external=True,
    )  # fmt: skip
    document = json.loads(SBOM.read_text())
    document["metadata"]["component"]["version"] = re.findall('__version__ = "(.*)"', VERSION.read_text())[0]
    SBOM.write_text(json.dumps(document, indent=2) + "\n")
    listed = {f"{one['name']}=={one['version']}" for one in document["components"]}
    locked = set(re.findall(r"^\S+==\S+", Path("requirements.lock").read_text(), re.MULTILINE))
    if listed != locked:
        session.error(f"the SBOM and requirements.lock differ in {', '.join(sorted(listed ^ locked))}")


@nox.session(venv_backend="none")
def image(session: nox.Session) -> None:
    """Build the image twice, compare the two and try one; needs root."""
    session.run("tests/image/check", external=True)


@nox.session(venv_backend="none")
def everything(session: nox.Session) -> None:
    """Run the whole check of a clean checkout."""
    session.run(".ci/run", external=True)
