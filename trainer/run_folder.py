"""A run's folder: made for a new run, or found again for a resumed one."""

from pathlib import Path

from trainer.checkpoint import checkpoint_folders
from trainer.config import TrainConfig
from trainer.errors import UsageError
from trainer.kept_settings import as_toml
from trainer.stage_configs import OfflineRunConfig

CONFIG_FILE = "config.toml"


def prepare_run_folder(config: TrainConfig | OfflineRunConfig, *, resume: bool) -> None:
    """Make the folder of a new run, or check that there is something to resume.

    Raises:
        UsageError: A new run would overwrite one, or there is no checkpoint to resume from.
    """
    folder = config.run.folder
    has_checkpoint = bool(checkpoint_folders(folder))
    if resume and not has_checkpoint:
        raise UsageError(f"--resume: no checkpoint in {folder / 'checkpoints'}")
    if not resume and (folder / CONFIG_FILE).exists():
        raise UsageError(
            f"{folder} already holds a run; continue it with --resume or choose another run.folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(as_toml(config), encoding="utf-8")


def require_model_folder(base_model: str) -> None:
    """Fail early on a base model that is plainly a missing folder.

    Raises:
        UsageError: It looks like a path but has no ``config.json``.
    """
    path = Path(base_model)
    looks_like_path = path.is_absolute() or base_model.startswith((".", "models/"))
    if (looks_like_path or path.is_dir()) and not (path / "config.json").is_file():
        raise UsageError(f"base model {base_model}: no such folder with a config.json in it")
