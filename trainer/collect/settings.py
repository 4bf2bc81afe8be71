"""Keeps the settings of a collection beside its file, so that it resumes with the same ones."""

from pathlib import Path

from inference_server.wire.prompt_options import PromptFormat
from trainer.config.sections import CollectConfig
from trainer.io.adapter_settings import kept_prompt_format
from trainer.io.durable import write_file
from trainer.io.jsonl import truncated_bytes
from trainer.io.kept_settings import (
    as_toml,
    keep_settings,
    read_kept,
    require_as_kept,
    settings_beside,
)

_FREE_SETTINGS = (
    *("output", "limit", "num_in_flight", "server", "data.num_questions", "reward.timeout_s"),
    "model",  # What it stands for is compared, under whatever name.
)


class CollectSettings:
    """The settings beside a file of rollouts. Those that a collection without a complete row has left are ignored."""

    def __init__(self, output: Path):
        """Look for the settings of a file, which must exist.

        Raises:
            DataError: It is not a file of rows.
        """
        self._path = settings_beside(output)
        has_rows = truncated_bytes(output) < output.stat().st_size
        self._are_kept = has_rows and self._path.exists()

    def prompt_format(self) -> PromptFormat | None:
        """The kept prompt format; None if no settings are kept."""
        return kept_prompt_format(self._path) if self._are_kept else None

    def require(self, config: CollectConfig) -> None:
        """Compare the settings with the kept ones, whatever the model is called.

        Raises:
            UsageError: Others have changed; names them.
        """
        if self._are_kept:
            require_as_kept(self._path, config, free=_FREE_SETTINGS)

    def have_another_model(self, config: CollectConfig) -> bool:
        """Whether the kept settings call the model by another name, which may stand for the same policy."""
        kept = read_kept(self._path) if self._are_kept else config
        return isinstance(kept, CollectConfig) and kept.model != config.model

    def keep(self, config: CollectConfig) -> None:
        """Keep the settings.

        Raises:
            UsageError: See `require`.
        """
        if not self._are_kept:
            write_file(self._path, as_toml(config).encode())
        else:
            keep_settings(self._path, config, free=_FREE_SETTINGS)
