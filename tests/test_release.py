"""What a release is made of says the same version everywhere, and pins what it runs."""

import os
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def document(file: str | Path) -> Any:
    return yaml.safe_load((ROOT / file).read_text())


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in document(workflow)["jobs"].values() for step in job["steps"]]


class TestVersion:
    def test_the_package_has_it(self):
        assert version("gpuid-collector") == __version__

    @pytest.mark.parametrize("chart", sorted(path.parent.name for path in ROOT.glob("config/helm/*/Chart.yaml")))
    def test_a_chart_has_it(self, chart: str):
        found = document(f"config/helm/{chart}/Chart.yaml")
        assert (found["version"], found["appVersion"]) == (__version__, __version__)

    def test_the_manifests_and_examples_have_it(self):
        kustomization = document("config/kubernetes/collector/kustomization.yaml")
        assert [image["newTag"] for image in kustomization["images"]] == [__version__]
        dockerfile = (ROOT / "Dockerfile").read_text()
        assert set(re.findall(r"gpuid:([0-9]+\S+)|VERSION=([0-9]\S+)", dockerfile)) == {
            (__version__, ""),
            ("", __version__),
        }
        assert f"VERSION={__version__}\n" in (ROOT / "docs/verify.md").read_text()

    def test_every_image_in_examples_has_it(self):
        found = {
            (path.relative_to(ROOT).as_posix(), tag)
            for folder in ("config", "docs")
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".md", ".yaml", ".yml", ".toml")
            for tag in re.findall(r"\bgpuid:([0-9]+\.[\w.+-]*)", path.read_text())
        }
        names = {name for name, _ in found}
        assert names >= {"config/compose/compose.yaml", "docs/run-once.md", "docs/thirty-clusters.md"}
        assert {tag for _, tag in found} == {__version__}, found

    def test_the_changelog_has_a_section_of_it(self):
        assert f"\n## [{__version__}] - " in (ROOT / "CHANGELOG.md").read_text()


class TestWorkflows:
    @pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
    def test_every_action_is_pinned_by_commit(self, workflow: Path):
        used = re.findall(r"uses: (.*)", workflow.read_text())
        assert used
        for line in used:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line

    @pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
    def test_a_job_has_only_permissions_it_names(self, workflow: Path):
        found = document(workflow)
        assert found["permissions"] == {}
        assert all(job["permissions"] and job["timeout-minutes"] for job in found["jobs"].values())

    @pytest.mark.parametrize(("runs", "version", "code"), [(1, __version__, 0), (0, __version__, 1), (1, "9.9.9", 1)])
    def test_a_tag_is_released_only_if_ci_passed_for_its_commit(
        self, tmp_path: Path, runs: int, version: str, code: int
    ):
        (step,) = [step for step in steps(TestVerification.release) if step.get("id") == "names"]
        checks, found, _ = step["run"].partition("base=python")
        assert found
        asked = tmp_path / "asked"
        (tmp_path / "gh").write_text(
            f'#!/bin/sh\necho "$2" >> {asked}\n'
            f"case $2 in *compare*) echo behind ;; *ci.yml/runs*) echo {runs} ;; esac\n"
        )
        (tmp_path / "gh").chmod(0o755)
        (tmp_path / "collector").mkdir()
        (tmp_path / "collector/__init__.py").write_text(f'__version__ = "{version}"\n')
        (tmp_path / "CHANGELOG.md").write_text(f"## [{version}] - 2026-01-01\n")
        env = {"REPOSITORY": "owner/gpuid", "BRANCH": "main", "GITHUB_SHA": "abc", "TAG": f"v{__version__}"}
        env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", checks], cwd=tmp_path, env=env, capture_output=True)
        assert done.returncode == code, done
        assert (
            "repos/owner/gpuid/actions/workflows/ci.yml/runs?head_sha=abc&branch=main&event=push" in asked.read_text()
        )
        assert document(TestVerification.release)["jobs"]["release"]["permissions"]["actions"] == "read"
        assert document(".github/workflows/ci.yml")[True]["push"] == {"branches": ["main"]}

    def test_the_signing_job_installs_only_locked_packages(self):
        for workflow in WORKFLOWS:
            for job in document(workflow)["jobs"].values():
                if "id-token" in job["permissions"]:
                    lines = "\n".join(step.get("run", "") for step in job["steps"]).splitlines()
                    installs = [line for line in lines if "install" in line or "nox" in line]
                    assert installs == [
                        "/tmp/build/bin/pip install --require-hashes --requirement requirements-build.lock"
                    ]

    def test_the_released_chart_runs_the_released_image(self, tmp_path: Path):
        names = [step.get("name") for step in steps(TestVerification.release)]
        step = next(step for step in steps(TestVerification.release) if step.get("name", "").startswith("Charts"))
        assert names.index("Image") < names.index(step["name"]) < names.index("Provenance of the files")
        (edit,) = [line for line in step["run"].splitlines() if line.startswith("sed ")]
        values = tmp_path / "config/helm/gpuid/values.yaml"
        values.parent.mkdir(parents=True)
        values.write_text((ROOT / "config/helm/gpuid/values.yaml").read_text())
        image = {"IMAGE": "ghcr.io/owner/gpuid", "DIGEST": f"sha256:{'0' * 64}"}
        subprocess.run(["sh", "-ec", edit], cwd=tmp_path, env=os.environ | image, check=True)
        (home,) = [line for line in step["run"].splitlines() if "printf 'home:" in line]
        (values.parent / "Chart.yaml").write_text((ROOT / "config/helm/gpuid/Chart.yaml").read_text())
        subprocess.run(
            ["sh", "-ec", home], cwd=tmp_path, env=os.environ | {"HOMEPAGE": "https://h/o/gpuid"}, check=True
        )
        chart = yaml.safe_load((values.parent / "Chart.yaml").read_text())
        assert (chart["home"], chart["sources"], chart["name"]) == ("https://h/o/gpuid", ["https://h/o/gpuid"], "gpuid")
        found = yaml.safe_load(values.read_text())["image"]
        assert (found["repository"], found["tag"], found["digest"]) == (image["IMAGE"], "", image["DIGEST"])

    def test_ci_runs_the_shared_commands_on_every_python(self):
        found = document(".github/workflows/ci.yml")
        pythons = found["jobs"]["pythons"]["strategy"]["matrix"]["python"]
        assert re.findall(r"PYTHONS = \[(.*)\]", (ROOT / "noxfile.py").read_text()) == [
            ", ".join(f'"{one}"' for one in pythons)
        ]
        classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
        assert classifiers == pythons
        sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
        for name in re.findall(r"nox --session \"?(\w+)", (ROOT / ".github/workflows/ci.yml").read_text()):
            assert name in sessions


class TestVerification:
    """The policy, the page and the workflow speak of the same identity, image and predicates."""

    release = ROOT / ".github/workflows/release.yml"

    def test_the_policy_admits_what_the_workflow_signs(self):
        policy = document("config/kubernetes/policy/clusterimagepolicy.yaml")
        (authority,) = policy["spec"]["authorities"]
        (identity,) = authority["keyless"]["identities"]
        workflow = f".github/workflows/{self.release.name}"
        signed = f"https://github.com/OWNER/gpuid/{workflow}@refs/tags/"
        assert re.search(identity["subjectRegExp"], f"{signed}v{__version__}")
        assert not re.search(identity["subjectRegExp"], f"{signed}v{__version__}-other")
        assert not re.search(identity["subjectRegExp"], f"https://github.com/OWNER/gpuid/{workflow}@refs/heads/main")
        assert {image["glob"].rstrip("@:*") for image in policy["spec"]["images"]} == {"ghcr.io/OWNER/gpuid"}

    def test_image_and_files_are_attested_and_signed(self):
        used = [step.get("uses", "").partition("@")[0] for step in steps(self.release)]
        assert used.count("actions/attest-build-provenance") == 2
        assert {"actions/attest-sbom", "sigstore/cosign-installer"} <= set(used)
        assert any("cosign sign --yes" in step.get("run", "") for step in steps(self.release))

    def test_the_page_names_the_workflow(self):
        text = (ROOT / "docs/verify.md").read_text()
        assert text.count(f".github/workflows/{self.release.name}") == 3


def test_the_image_is_checked_the_way_it_is_built():
    check, dockerfile = (ROOT / "tests/image/check").read_text(), (ROOT / "Dockerfile").read_text()
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    assert arguments == {"BASE", "VERSION", "REVISION"}
    (image,) = [step for step in steps(TestVerification.release) if step.get("id") == "image"]
    assert {line.partition("=")[0] for line in image["with"]["build-args"].splitlines()} == arguments
    assert set(re.findall(r"--build-arg (\w+)=", check)) == arguments - {"REVISION"}
    assert "rewrite-timestamp=true" in image["with"]["outputs"]
