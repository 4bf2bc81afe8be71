"""Keeps the settings of a collection beside its file, so that it resumes with the same ones."""

from pathlib import Path

from inference_server.wire.prompt_options import PromptFormat
from trainer.config.sections import CollectConfig
from trainer.io.adapter_settings import kept_prompt_format
from trainer.io.durable import write_file
from trainer.io.kept_settings import as_toml, keep_settings, require_as_kept, settings_beside

_FREE_SETTINGS = (
    *("output", "limit", "num_in_flight", "server", "data.num_questions", "reward.timeout_s"),
)
_MODEL = "model"
"""Free too while rows are missing: what it stands for is compared, under whatever name."""


class CollectSettings:
    """The settings beside a file of rollouts. Those that a collection without a row has left are ignored."""

    def __init__(self, output: Path):
        """Look for the settings of a file, which must exist."""
        self._path = settings_beside(output)
        self._are_kept = output.stat().st_size > 0 and self._path.exists()

    def prompt_format(self) -> PromptFormat | None:
        """The kept prompt format; None if no settings are kept."""
        return kept_prompt_format(self._path) if self._are_kept else None

    def require(self, config: CollectConfig) -> None:
        """Compare the settings with the kept ones, whatever the model is called.

        Raises:
            UsageError: Others have changed; names them.
        """
        if self._are_kept:
            require_as_kept(self._path, config, free=(*_FREE_SETTINGS, _MODEL))

    def keep(self, config: CollectConfig, *, are_rows_missing: bool) -> None:
        """Keep the settings.

        Raises:
            UsageError: See `require`; while no rows are missing, the model has to have the same name.
        """
        if not self._are_kept:
            write_file(self._path, as_toml(config).encode())
            return
        free = (*_FREE_SETTINGS, _MODEL) if are_rows_missing else _FREE_SETTINGS
        keep_settings(self._path, config, free=free)
