"""`gpuid store`: what it copies, what it deletes only when asked, and what it refuses."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from collector.store import StoreSettings, schema
from tests.support.old_store import VERSIONS, write_old_store
from tests.support.small_disk import small_disk

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = StoreSettings(url=f"sqlite://{tmp_path}/gpuid.db")
    anyio.run(write_old_store, settings, VERSIONS[-1])
    config = tmp_path / "gpuid.toml"
    config.write_text(f'[store]\nurl = "{settings.url}"\n[[clusters]]\ncontext = "prod"\n')
    return config


def test_a_store_is_backed_up_and_downgraded(gpuid: Run, config: Path, tmp_path: Path):
    copy = tmp_path / "copy.db"
    result = gpuid("store", "backup", copy, "-c", config)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"Copied the store to {copy} ({copy.stat().st_size / 1e6:.1f} MB).\n"

    result = gpuid("store", "downgrade", "--to", "0005", "-c", config, input="")
    assert (result.returncode, result.stdout) == (1, "")
    question, line = result.stderr.strip().split("\n")
    assert question.startswith("This deletes ")
    assert "marks" in question
    assert line == "gpuid: nothing was changed; use --yes to skip the confirmation"

    result = gpuid("store", "downgrade", "--to", "0005", "--yes", "-c", config)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "The store has schema 0005.\n"
    result = gpuid("store", "downgrade", "--to", "0005", "-c", config, input="")  # nothing is left to agree to
    assert result.stderr == ""
    assert (result.returncode, result.stdout) == (0, "The store has schema 0005.\n")
    result = gpuid("marks", "-c", config)
    assert result.stderr.endswith(": created by an older gpuid; start this version's collector once to update it\n")


def test_a_backup_to_a_full_disk_names_that_disk(config: Path, tmp_path: Path):
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        disk.fill()
        with (disk.seen_from_outside / "filler").open("ab") as filler:
            filler.truncate(filler.tell() - 65536)
        copy = disk.path / "copy.db"
        command = disk.command(sys.executable, "-m", "collector", "store", "backup", copy, "-c", config)
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == f"gpuid: {copy}: disk full; free some space, or choose another file\n"
        assert sorted(file.name for file in disk.seen_from_outside.iterdir()) == [".mounted", "filler"]


def test_an_unknown_schema_is_refused(gpuid: Run, config: Path):
    result = gpuid("store", "downgrade", "--to", "9", "-c", config)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"gpuid: no schema 9: this gpuid knows 0001 to {schema.HEAD}\n"
