"""The source files of ``reward.functions``, found without importing anything; only with the standard library."""

import hashlib
import importlib.machinery
import os
import sys
from pathlib import Path


def source_of(function: str) -> Path | None:
    """The source file of a function, found without importing anything; None if there is none.

    Args:
        function: ``path/to/file.py:name``, or ``pkg.module:name``, which is looked for in the working directory
            and then where Python looks for modules.
    """
    target = function.rpartition(":")[0]
    if target.endswith(".py"):
        return Path(target) if Path(target).is_file() else None
    places: list[str] | None = None
    found, name = None, ""
    for part in target.split("."):
        name = f"{name}.{part}" if name else part
        found = _spec(name, places)
        if found is None:
            return None
        places = list(found.submodule_search_locations or ())
    origin = None if found is None else found.origin
    return None if origin is None else Path(origin)


def _spec(name: str, places: list[str] | None) -> importlib.machinery.ModuleSpec | None:
    """What Python's finders, including those of editable installs, find in a package's folders.

    `importlib.util.find_spec` would import the packages around a module.
    """
    for finder in sys.meta_path:
        is_in_path = places is None and finder is importlib.machinery.PathFinder
        found = finder.find_spec(name, [os.getcwd(), *sys.path] if is_in_path else places)
        # Built-in and frozen modules are skipped: they have no file.
        if found is not None and (found.has_location or found.submodule_search_locations):
            return found
    return None


def source_sha256(function: str) -> str | None:
    """SHA-256 of the function's source file, in hex; None if it cannot be read."""
    path = source_of(function)
    try:
        return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
