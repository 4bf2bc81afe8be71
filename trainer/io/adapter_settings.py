"""Reads from kept settings how an adapter was trained: on which base and data, and with which prompt format and dtype."""

from contextlib import suppress
from pathlib import Path

from inference_server.wire.json_and_toml import parse_json
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE
from trainer.config.asking import CollectConfig
from trainer.config.data import DataConfig
from trainer.config.policy import PolicyConfig
from trainer.config.sft import SFTRunConfig
from trainer.config.train import OfflineRunConfig, TrainConfig
from trainer.errors import UsageError
from trainer.io.base_record import BaseRecord, base_of, other_base
from trainer.io.kept_settings import (
    CONFIG_FILE,
    KeptConfig,
    command_of,
    kept_tables,
    lost_settings,
    read_kept,
    settings_beside,
)
from trainer.io.metrics_file import METRICS_FILE
from trainer.io.paths import read_plain
from trainer.io.run_layout import ROLLOUTS_FOLDER, has_begun, run_of, version_folders


def settings_of(adapter: Path) -> tuple[Path, KeptConfig] | None:
    """The folder of the SFT or run that an adapter folder belongs to, with its settings; None if there are none.

    Raises:
        UsageError: The settings that a command has kept there cannot be read, or a run that has begun has lost them; names
            the file and the key.
    """
    for folder in _owners(adapter):
        if (kept := _kept_in(folder)) is not None:
            return folder, kept
    return None


def own_configuration(adapter: Path) -> Path | None:
    """Somebody's own configuration beside an adapter, if no command has kept settings there; else None.

    Raises:
        UsageError: See `settings_of`.
    """
    if settings_of(adapter) is not None:
        return None
    files = (folder / CONFIG_FILE for folder in _owners(adapter))
    return next((file for file in files if file.exists()), None)


def _owners(adapter: Path) -> list[Path]:
    """The folders where an adapter's settings may be: its own, as of an SFT, and that of its run."""
    return [folder for folder in (adapter, run_of(adapter)) if folder is not None]


def _kept_in(folder: Path) -> KeptConfig | None:
    """The settings in a folder; None if there are none, or only a configuration that no command has kept.

    Raises:
        UsageError: See `settings_of`.
    """
    path = folder / CONFIG_FILE
    try:
        return read_kept(path)
    except FileNotFoundError:
        if has_begun(folder):
            raise lost_settings(path) from None
        return None
    except UsageError:
        if _is_kept(folder):
            raise
        return None


def _is_kept(folder: Path) -> bool:
    """Whether a command has kept the configuration in a folder, although it cannot be read."""
    if has_begun(folder) or (folder / METRICS_FILE).exists():
        return True
    try:
        return command_of(kept_tables(folder / CONFIG_FILE)) is not None
    except UsageError:  # not TOML, as a file that was cut off
        return bool(version_folders(folder))


def adapter_prompt_format(adapter: Path) -> PromptFormat | None:
    """The prompt format of the SFT or run that an adapter folder belongs to; see `kept_prompt_format`."""
    found = settings_of(adapter)
    return None if found is None else _prompt_format(found[1])


def prompt_format_advice(config: TrainConfig) -> list[str]:
    """One line if the adapter to start from was trained with prompts of another format, or nobody can tell; else none."""
    adapter, asked_as = config.policy.adapter, config.rollout.prompt_format
    try:
        kept = None if adapter is None else adapter_prompt_format(adapter)
    except UsageError as error:
        return [f"whether {adapter} was trained with {asked_as} prompts was not checked: {error}"]
    if kept is None or kept == asked_as:
        return []
    return [
        f"{adapter} was trained with {kept} prompts, and this run asks with {asked_as} ones: "
        f"set rollout.prompt_format to {kept}, unless this is intended"
    ]


def base_advice(policy: PolicyConfig) -> list[str]:
    """One line if the adapter to start from is known to have been trained on another base, else none.

    This is no error: a base that was fine-tuned further may well go on with an adapter of what it was made from.
    """
    if policy.adapter is None:
        return []
    try:
        trained = base_of(policy.adapter) or _named_base(policy.adapter)
    except UsageError as error:
        return [
            f"whether {policy.adapter} was trained on {policy.base_model} was not checked: {error}"
        ]
    now = BaseRecord.of(policy.base_model, policy.quantization)
    if (line := other_base(trained, now)) is None:
        return []
    return [
        f"{policy.adapter} {line}: set policy.base_model to the former, unless this is intended"
    ]


def _named_base(adapter: Path) -> BaseRecord | None:
    """The base that an adapter's own configuration names, as its files are now; None if it names none."""
    try:
        named = parse_json(read_plain(adapter / ADAPTER_CONFIG_FILE))
    except (OSError, ValueError, RecursionError):
        return None
    name = named.get("base_model_name_or_path") if isinstance(named, dict) else None
    if not isinstance(name, str):
        return None
    found = settings_of(adapter)
    policy = None if found is None else _policy(found[1])
    return BaseRecord.of(name, None if policy is None else policy.quantization)


def kept_prompt_format(path: Path) -> PromptFormat | None:
    """The prompt format of kept settings; None if there are no settings, or if they leave it open."""
    kept = _readable(path)
    return None if kept is None else _prompt_format(kept)


def kept_dtype(path: Path) -> str | None:
    """policy.dtype of kept settings; None if there are no settings."""
    kept = _readable(path)
    policy = None if kept is None else _policy(kept)
    return None if policy is None else policy.dtype


def training_data(adapter: Path) -> DataConfig | None:
    """The data settings of the SFT or run that an adapter folder belongs to; None if they are not known.

    An SFT's ``num_questions`` is its number of examples. For a run of `train-offline` they are the settings that its file
    of rollouts was collected with, or the settings of the run that wrote this file.

    Raises:
        UsageError: Such settings cannot be read; names the file and the key.
    """
    found = settings_of(adapter)
    kept = None if found is None else found[1]
    if isinstance(kept, OfflineRunConfig):
        kept = _collected_with(kept.rollouts)
    if kept is None or isinstance(kept, OfflineRunConfig):
        return None
    if isinstance(kept, SFTRunConfig):
        return kept.data.model_copy(update={"num_questions": kept.sft.num_examples})
    return kept.data


def _collected_with(rollouts: Path) -> KeptConfig | None:
    with suppress(FileNotFoundError):
        return read_kept(settings_beside(rollouts))
    return _kept_in(rollouts.parent.parent) if rollouts.parent.name == ROLLOUTS_FOLDER else None


def _readable(path: Path) -> KeptConfig | None:
    """Kept settings; None if there are none that can be read."""
    with suppress(FileNotFoundError, UsageError):
        return read_kept(path)
    return None


def _prompt_format(kept: KeptConfig) -> PromptFormat | None:
    found = kept.prompt_format if isinstance(kept, SFTRunConfig) else kept.rollout.prompt_format
    return None if found == "auto" else found


def _policy(kept: KeptConfig) -> PolicyConfig | None:
    return None if isinstance(kept, CollectConfig) else kept.policy
