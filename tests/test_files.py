"""Files are read in bounded time and space, and changes to them are detected."""

import os
import threading
from pathlib import Path

import pytest

from collector.files import MAX_FILE_BYTES, _hanging, file_stamp, in_time, read_file, replace_file


def test_an_untouched_file_has_the_same_stamp(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    assert file_stamp(file) == file_stamp(str(file))


def test_a_stamp_changes_with_time_size_and_inode(tmp_path: Path) -> None:
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


def test_a_missing_file_has_no_stamp(tmp_path: Path) -> None:
    assert file_stamp(tmp_path / "file") is None


def test_a_file_is_read_completely(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 10_000)
    assert read_file(file) == file.read_bytes()
    assert read_file("/dev/null") == b""


def test_special_and_endless_files_are_an_immediate_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(MAX_FILE_BYTES + 1)
    for file, why in {
        tmp_path / "pipe": "not a regular file",
        tmp_path: "Is a directory",
        tmp_path / "large": "more than 16 MiB",
        Path("/dev/zero"): "more than 16 MiB",
        tmp_path / "none": "No such file",
    }.items():
        with pytest.raises(OSError, match=why):
            read_file(file)
    with pytest.raises(ValueError, match="null"):
        read_file("a\0b")


def threads_for_files() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "gpuid file"}


def test_a_hanging_file_system_times_out_only_once() -> None:
    answers = threading.Event()

    def work() -> bool:
        return answers.wait(60)

    with pytest.raises(OSError, match="its file system does not respond"):
        in_time("/mnt/hangs", work, timeout=0.05)
    waiting = threads_for_files()
    for _ in range(10):
        with pytest.raises(OSError, match="its file system does not respond"):
            in_time("/mnt/hangs", work, timeout=60)
    assert threads_for_files() == waiting
    assert in_time("/mnt/other", lambda: 1) == 1
    answers.set()
    _hanging["/mnt/hangs"].join(60)
    assert in_time("/mnt/hangs", work)


def test_the_error_of_the_work_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        in_time("/file", lambda: 1 // 0)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    replace_file(file, b"one", 0o600)
    replace_file(file, b"two", 0o640)
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"two", 0o640)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "folder", b"three", 0o600)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["folder", "kubeconfig"]
