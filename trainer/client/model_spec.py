"""The model that a command asks, as its user names it: the base, a served version, or an adapter folder.

The user names ``base``, ``policy``, ``policy-000012``, an adapter folder, or a run's folder (for its newest
adapter); the result is the version to ask for.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from inference_server.wire.schemas import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    ServerStatus,
    adapter_name,
)
from trainer.errors import UsageError
from trainer.io.paths import shown_path
from trainer.io.run_layout import version_folders, version_of_name

_BASE, _POLICY = "base", "policy"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model by name or by folder."""

    what: str
    """The model as the user wrote it."""
    folder: Path | None
    """The adapter folder; None if `what` names a served model."""

    @classmethod
    def parse(cls, what: str, *, field: str) -> "ModelSpec":
        """Read a name or a path; an error names the ``field``.

        Raises:
            UsageError: It is neither the name of a served model nor an adapter folder.
        """
        if what in (_BASE, _POLICY) or version_of_name(what) is not None:
            return cls(what=what, folder=None)
        folder = Path(what)
        # A run's folder stands for its newest adapter.
        *_, folder = (folder, *version_folders(folder).values())
        for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
            if not os.path.isfile(folder / name):
                raise UsageError(
                    f"{field}: there is no {name} in {shown_path(what)}; name an adapter or run folder, "
                    f"{_BASE}, {_POLICY} or a version such as {adapter_name(12)}"
                )
        return cls(what=what, folder=folder)

    def served_version(self, status: ServerStatus, *, field: str) -> int | None:
        """The version to ask for, None for the base; only for a model without a folder.

        ``policy`` is resolved to the version that is active now, because it may move meanwhile.

        Raises:
            UsageError: The server does not hold the version.
        """
        if self.what == _BASE:
            return None
        if self.what == _POLICY:
            return status.active_version
        versions = {version.name: version.version for version in status.versions}
        if self.what not in versions:
            raise UsageError(
                f"{field}: {self.what} is not served (but {', '.join([_BASE, *versions])}); "
                "name its adapter folder instead"
            )
        return versions[self.what]
