"""Checks the folder that an adapter is to be written to; imports no torch."""

from pathlib import Path

from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE
from trainer.errors import UsageError
from trainer.io.kept_settings import CONFIG_FILE, command_in, lost_settings
from trainer.io.paths import require_folder
from trainer.io.run_layout import belongs_to_run, newest_sft_checkpoint


def require_output(output: Path) -> None:
    """Refuse a folder that an adapter cannot be written to.

    Raises:
        UsageError: It cannot be made, is a run's folder, or holds an adapter or checkpoints without the settings of
            their training.
    """
    require_folder(output, field="output")
    path, command = output / CONFIG_FILE, command_in(output)
    if command in ("train", "train-offline"):
        raise UsageError(f"output: {output} is the folder of a run; choose another folder")
    if command != "sft":
        # An SFT would remove them, or go on with them although their settings may be others.
        flaw = "not the settings of an SFT" if path.exists() else "missing"
        if belongs_to_run(output):
            raise lost_settings(path, f"{flaw}, and the run has begun")
        if newest_sft_checkpoint(output) is not None:
            raise lost_settings(path, f"{flaw}, and the SFT has begun")
    if (output / ADAPTER_WEIGHTS_FILE).exists() and not path.exists():
        raise UsageError(f"output: {output} holds an adapter already; choose another folder")
