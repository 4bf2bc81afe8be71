"""Files that survive a power cut: complete under their name, or absent.

Files and folders have the suffix ``.unfinished`` while they are written or removed; after a kill,
`remove_unfinished` deletes the remains.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

_SUFFIX = ".unfinished"


def unfinished(path: Path) -> Path:
    """The path of a file or folder while it is written."""
    return path.with_name(path.name + _SUFFIX)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file by ``data``; its folder is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path).open("wb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            # On a full disk, what is left of it would take the space that is missing.
            unfinished(path).unlink()
            raise
    unfinished(path).replace(path)
    fsync(path.parent)


def append(file: FileIO, data: bytes, *, wait: bool) -> None:
    """Append all of ``data`` to an unbuffered file, or nothing; ``wait`` until it is on the disk."""
    size_bytes = os.fstat(file.fileno()).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
        if wait:
            os.fsync(file.fileno())
    except OSError:
        file.truncate(size_bytes)
        raise


def new_folder(path: Path) -> Path:
    """An empty folder to fill for `finish_folder`."""
    folder = unfinished(path)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def finish_folder(path: Path) -> None:
    """Give a folder of `new_folder` its final name; whatever has that name is replaced."""
    folder = unfinished(path)
    fsync_all(folder)
    # What it replaces is damaged, outdated or the same: a kill between these two lines loses nothing.
    shutil.rmtree(path, ignore_errors=True)
    folder.rename(path)
    fsync(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill within the block; it is then renamed to ``path``, or removed after an error."""
    folder = new_folder(path)
    try:
        yield folder
        finish_folder(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def remove_folder(path: Path) -> None:
    """Remove a folder; it is never seen half removed under its name."""
    shutil.rmtree(unfinished(path), ignore_errors=True)
    path.rename(unfinished(path))
    shutil.rmtree(unfinished(path))


def remove_unfinished(folder: Path) -> None:
    """Delete the unfinished files and folders that a kill has left in a folder."""
    for path in folder.glob("*" + _SUFFIX):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def fsync_all(folder: Path) -> None:
    """Wait until a folder's files, but not those of folders in it, are on the disk."""
    for path in (*folder.iterdir(), folder):
        fsync(path)


def fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
