"""Whether files are still what they were."""

import os
from pathlib import Path

from collector.files import file_stamp


def test_a_file_that_nobody_touched_has_the_same_stamp(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    assert file_stamp(file) == file_stamp(str(file))


def test_it_changes_with_time_size_and_inode(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("one")
    os.utime(file, ns=(0, 0))
    stamps = [file_stamp(file)]
    file.write_text("three")
    os.utime(file, ns=(0, 0))
    stamps.append(file_stamp(file))
    os.utime(file, ns=(0, 1))
    stamps.append(file_stamp(file))
    other.write_text("three")
    os.utime(other, ns=(0, 1))
    other.replace(file)
    stamps.append(file_stamp(file))
    assert len(set(stamps)) == 4


def test_a_missing_file_has_none(tmp_path: Path) -> None:
    assert file_stamp(tmp_path / "file") is None
