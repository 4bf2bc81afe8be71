"""Finds paths that cannot be used before any work is done, and tells their errors from errors that may pass."""

import errno
import os
import stat
from pathlib import Path

from trainer.config.safe_text import shortened
from trainer.errors import DataError, UsageError
from trainer.io.run_layout import ROLLOUTS_FOLDER

_LASTING = frozenset(
    (
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENXIO),
    )
)


def is_lasting(error: OSError) -> bool:
    """Whether an error is about a path and lasts until somebody fixes it."""
    return error.errno in _LASTING and error.filename is not None


def open_plain(path: str, flags: int) -> int:
    """An opener, for `open`, of a run's own files: a folder, pipe or device in their place is an error.

    A pipe or a device may never end, or may have nobody at its other end, for whom a plain `open` would wait.

    Raises:
        OSError: The path is not a file, or cannot be opened; the message says what it is.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, "a folder where a file belongs", os.fspath(path))
    raise OSError(errno.ENXIO, "a pipe or device where a file belongs", os.fspath(path))


def read_plain(path: Path) -> bytes:
    """The content of one of a run's own files.

    Raises:
        OSError: It is not a file, or cannot be read.
    """
    with open(path, "rb", opener=open_plain) as file:
        return file.read()


def shown_path(path: object) -> str:
    """A path for a message, which is cut if it is too long."""
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    return shortened(text)


def require_folder(folder: Path, *, field: str) -> None:
    """Refuse a folder that can neither be written to nor created; nothing is created.

    Args:
        folder: The folder, which need not exist yet.
        field: The setting that names it.

    Raises:
        UsageError: Names the setting and the reason.
    """
    try:
        os.fspath(folder).encode()
        reason = _flaw_in_folder(folder)
    except UnicodeEncodeError:
        reason = "its name is not UTF-8, in which settings and journals are written"
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError:  # Python's own message for it changes with its version.
        reason = "its name has a null byte"
    if reason is not None:
        raise UsageError(f"{field}: {shown_path(folder)}: {reason}; choose another folder")


def require_no_folder(file: Path, *, field: str) -> None:
    """Refuse a folder where a file is to be written.

    Raises:
        UsageError: Names the setting and the folder.
    """
    if file.is_dir():
        raise UsageError(f"{field}: {shown_path(file)} is a folder; name a file in it")


def require_rollouts(path: Path, *, field: str) -> None:
    """Refuse a file of rollouts that does not exist, or is a folder.

    Args:
        path: The file.
        field: The setting that names it.

    Raises:
        DataError: Names the setting and the file.
    """
    if os.path.isdir(path):
        of_a_run = path / ROLLOUTS_FOLDER
        files = (of_a_run if os.path.isdir(of_a_run) else path) / "*.jsonl"
        raise DataError(
            f"{field}: {shown_path(path)}: a folder, and no file; make one file of the files of a run: "
            f"cat {shown_path(files)} > rollouts.jsonl"
        )
    if not os.path.isfile(path):
        raise DataError(f"{field}: {shown_path(path)}: no such file; `collect` writes one")


def is_same_path(one: object, other: object) -> bool:
    """Whether two paths may name one folder: they are equal, or an absolute one ends with the other, a relative one."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    relative, absolute = sorted(map(os.path.normpath, (one, other)), key=os.path.isabs)
    if os.path.isabs(relative) or not os.path.isabs(absolute):
        return relative == absolute
    return absolute.endswith(os.sep + relative)


def _flaw_in_folder(folder: Path) -> str | None:
    for path in (folder, *folder.parents):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not os.path.exists(path):
            return (
                "a link to what does not exist" if path == folder else f"{path} is a dangling link"
            )
        if not os.path.isdir(path):
            return "it is a file" if path == folder else f"{path} is a file"
        if not os.access(path, os.W_OK | os.X_OK):
            return f"{path} cannot be written to"
        return None
    return None
