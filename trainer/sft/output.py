"""Checks the folder that an adapter is to be written to; imports no torch."""

from pathlib import Path

from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE
from trainer.errors import UsageError
from trainer.io.kept_settings import CONFIG_FILE, command_in
from trainer.io.paths import require_folder


def require_output(output: Path) -> None:
    """Refuse a folder that an adapter cannot be written to.

    Raises:
        UsageError: It cannot be made, is a run's folder, or holds an adapter without the settings of its training.
    """
    require_folder(output, field="output")
    if command_in(output) in ("train", "train-offline"):
        raise UsageError(f"output: {output} is the folder of a run; choose another folder")
    if (output / ADAPTER_WEIGHTS_FILE).exists() and not (output / CONFIG_FILE).exists():
        raise UsageError(f"output: {output} holds an adapter already; choose another folder")
