"""Files that survive a power cut: whole under their name, or not there at all.

What is being written carries the suffix ``.unfinished``, and so does what is being removed; after a
kill, `remove_unfinished` takes away what is left of either.
"""

import os
import shutil
from io import FileIO
from pathlib import Path

_SUFFIX = ".unfinished"


def unfinished(path: Path) -> Path:
    """Where a file or folder is while it is written."""
    return path.with_name(path.name + _SUFFIX)


def write_file(path: Path, data: bytes) -> None:
    """Replace a file by ``data``; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished(path).replace(path)
    fsync(path.parent)


def append(file: FileIO, data: bytes, *, wait: bool) -> None:
    """Add to an unbuffered file, all of it or nothing; ``wait`` until it is on the disk."""
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
    """Give a folder of `new_folder` its name, in place of what has it."""
    folder = unfinished(path)
    for file in (*folder.iterdir(), folder):
        fsync(file)
    # Only ever a damaged one, or the same once more: losing it between these two lines costs nothing.
    shutil.rmtree(path, ignore_errors=True)
    folder.rename(path)
    fsync(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder; half of it is never seen under its name."""
    shutil.rmtree(unfinished(path), ignore_errors=True)
    path.rename(unfinished(path))
    shutil.rmtree(unfinished(path))


def remove_unfinished(folder: Path) -> None:
    """Take away what a kill has left in a folder."""
    for path in folder.glob("*" + _SUFFIX):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
