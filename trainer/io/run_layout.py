"""The names in a run's folder: its folders, and those of its steps and versions within them."""

import os
import re
from pathlib import Path

from inference_server.wire.schemas import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    adapter_name,
)

ADAPTERS_FOLDER = "adapters"
"""The folder of the versions."""
CHECKPOINTS_FOLDER = "checkpoints"
"""The folder of the checkpoints, of a run or of an SFT."""
JOURNAL_FILE = "journal.jsonl"
"""The journal of an online run."""
FAILED_FOLDER = "failed"
"""The folder of what steps that met NaN leave behind."""
ROLLOUTS_FOLDER = "rollouts"
"""The folder of a run's own files of rollouts."""
START_FOLDER = "start"
"""The folder of the adapter that a run began with."""

_NAME = re.compile(r"policy-([0-9]{6,})")
_SFT_CHECKPOINT = re.compile("checkpoint-[0-9]+")


def step_name(step: int) -> str:
    """What a step's checkpoint, file of rollouts or remains are called: ``step-000012``."""
    return f"step-{step:06d}"


def version_of_name(name: str) -> int | None:
    """The version that a name stands for; None if it stands for none, such as ``policy-000012-backup2``."""
    found = _NAME.fullmatch(name)
    # `policy-0000012` holds a number too, but is not the name of any version.
    if found is None or adapter_name(version := int(found[1])) != name:
        return None
    return version


def version_folders(run: Path) -> dict[int, Path]:
    """The folders of the versions in a run's folder, oldest first; empty if there is no such folder."""
    found = {version_of_name(path.name): path for path in (run / ADAPTERS_FOLDER).glob("policy-*")}
    return {version: found[version] for version in sorted(v for v in found if v is not None)}


def checkpoint_folders(run: Path) -> list[Path]:
    """Finished checkpoints, oldest first; the first is of step 0."""
    return sorted((run / CHECKPOINTS_FOLDER).glob("step-" + 6 * "[0-9]"))


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is, if it is kept."""
    return run / CHECKPOINTS_FOLDER / step_name(step)


def step_of(folder: Path) -> int:
    """The step of a checkpoint."""
    return int(folder.name.rsplit("-", 1)[1])


def newest_sft_checkpoint(sft: Path) -> Path | None:
    """The newest complete checkpoint of an SFT, which is one with the trainer's state: that file is written last."""
    states = (sft / CHECKPOINTS_FOLDER).glob("checkpoint-*/trainer_state.json")
    found = [state.parent for state in states if _SFT_CHECKPOINT.fullmatch(state.parent.name)]
    return max(found, key=step_of, default=None)


def is_finished_sft(sft: Path) -> bool:
    """Whether an SFT's adapter is complete: only then is its last checkpoint removed."""
    return newest_sft_checkpoint(sft) is None and (sft / ADAPTER_WEIGHTS_FILE).exists()


def has_begun(run: Path) -> bool:
    """Whether a run has anything to resume from: a checkpoint, or a journal with something in it.

    Its settings alone are no beginning: a new run writes them before it waits for its server.
    """
    journal = run / JOURNAL_FILE
    return bool(checkpoint_folders(run)) or (journal.is_file() and journal.stat().st_size > 0)


def belongs_to_run(folder: Path) -> bool:
    """Whether a folder is that of a run: one that can be resumed, or what is left of one, of which there are versions."""
    return has_begun(folder) or bool(version_folders(folder))


def run_of(adapter: Path) -> Path | None:
    """The folder of the run to which an adapter folder belongs by its place; None if it is not in such a place."""
    if adapter.parent.name == ADAPTERS_FOLDER:
        return adapter.parent.parent
    return adapter.parent if adapter.name == START_FOLDER else None


def why_no_adapter(folder: Path) -> str:
    """Says what a folder without an adapter's configuration is instead, and what to name in its place."""
    # Only if it is a folder: it may be any path, such as one that is too long for a folder.
    versions = list(version_folders(folder).values()) if os.path.isdir(folder) else []
    if versions:
        return (
            f"it is a run's folder; name an adapter of it, such as {versions[-1]}, its newest, or the one that "
            f"`export {folder} --best --adapter --to DIR` writes to DIR"
        )
    if os.path.isdir(folder / CHECKPOINTS_FOLDER):
        return "it has checkpoints but no adapter yet; run the command that began it again, which resumes it"
    flaw = f"no {ADAPTER_CONFIG_FILE} in it" if os.path.isdir(folder) else "there is no such folder"
    return f"{flaw}; name a folder on this machine (download an adapter of the Hub first)"
