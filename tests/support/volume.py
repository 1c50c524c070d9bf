"""ConfigMaps and Secrets as files, as a kubelet writes them: one link changes all files of a volume at once."""

import datetime
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["write_volume"]

DATA, NEXT = "..data", "..data_tmp"


def write_volume(folder: Path, files: Mapping[str, bytes], *, mode: int = 0o644) -> bool:
    """Make a folder hold these files; returns whether anything had to be written.

    Each file, or folder of a projected volume, is a link into `..data`, which is a link to a hidden folder with the
    time in its name. An update makes another such folder and puts a new link in the place of `..data`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / DATA
    before = folder / data.readlink() if data.is_symlink() else None
    if before is not None and {str(file.relative_to(before)): file.read_bytes() for file in _files(before)} == files:
        return False
    now = datetime.datetime.now(datetime.UTC)
    new = Path(tempfile.mkdtemp(prefix=f"..{now:%Y_%m_%d_%H_%M_%S}.", dir=folder))
    new.chmod(0o755)
    for name, content in files.items():
        (new / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).write_bytes(content)
        (new / name).chmod(mode)
    for name in {Path(name).parts[0] for name in files}:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"{DATA}/{name}")
    (folder / NEXT).symlink_to(new.name)
    os.replace(folder / NEXT, data)  # noqa: PTH105  of the link, and not of what it leads to
    if before is not None:
        for name in {file.name for file in before.iterdir()} - {file.name for file in new.iterdir()}:
            (folder / name).unlink()
        shutil.rmtree(before)
    return True


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
