"""Checks what is installed: the machine's packages, and the versions of Python packages against this project's pins."""

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement

from inference_server.wire.hardware.prerequisites import (
    EXTRAS,
    Installed,
    missing_compiler,
    missing_server_prerequisites,
)
from trainer.doctor.results import CheckResult, bad, note, ok

_DISTRIBUTION = "regime-w"


def check_machine(installed: Installed) -> Iterator[CheckResult]:
    """Whether the machine has what vLLM needs; no result if only a trainer is installed."""
    if not any(map(installed, EXTRAS)):
        return
    found = [
        bad("machine", each.what, each.fix) for each in missing_server_prerequisites(installed)
    ]
    if installed("vllm"):
        found += [note("machine", each.what, each.fix) for each in missing_compiler()]
    yield from found or [ok("machine", "has all that vLLM needs in addition to Python packages")]


def check_versions(installed: Installed) -> Iterator[CheckResult]:
    """Compare what is installed with the requirements of this project and of the build of vLLM."""
    python = platform.python_version()
    try:
        pins = [Requirement(line) for line in requires(_DISTRIBUTION) or ()]
    except PackageNotFoundError:
        text = f"Python {python}; {_DISTRIBUTION} is not installed, so its requirements are unknown"
        yield note("versions", text, "make install")
        return
    builds = [name for name in EXTRAS if installed(name)]
    if len(builds) > 1:
        text = "both builds of vLLM are installed and overwrite each other's files"
        yield bad("versions", text, "make clean install")
    wrong = [
        f"{pin.name} {found or 'is missing'}, not {pin.specifier}"
        for pin in pins
        if _applies(pin, builds)
        and not ((found := installed(pin.name)) and pin.specifier.contains(found))
    ]
    if wrong:
        yield bad("versions", "; ".join(wrong), "make install, or rebuild the image")
    else:
        names = (*builds, "torch", "transformers", "peft")
        versions = ", ".join(f"{name} {installed(name)}" for name in names)
        yield ok("versions", f"Python {python}, {versions}")


def _applies(pin: Requirement, builds: Sequence[str]) -> bool:
    """Whether a requirement belongs to the core or to an installed build of vLLM."""
    extras = ["", *(EXTRAS[build] for build in builds)]
    return pin.marker is None or any(pin.marker.evaluate({"extra": extra}) for extra in extras)
