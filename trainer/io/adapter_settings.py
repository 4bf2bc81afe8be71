"""Reads from kept settings how an adapter was trained: on which base and data, and with which prompt format and dtype."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inference_server.wire.json_and_toml import parse_json
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE
from trainer.config.data import DataConfig
from trainer.config.policy import PolicyConfig
from trainer.config.train import TrainConfig
from trainer.errors import UsageError
from trainer.io.base_record import BaseRecord, base_of, other_base
from trainer.io.kept_settings import (
    CONFIG_FILE,
    kept_tables,
    settings_beside,
    table_of,
)
from trainer.io.paths import read_plain
from trainer.io.run_layout import ROLLOUTS_FOLDER, run_of


def settings_of(adapter: Path) -> tuple[Path, dict[str, Any]] | None:
    """The folder of the SFT or run that an adapter folder belongs to, with its settings; None if there are none.

    Raises:
        UsageError: The run's settings are damaged.
    """
    if (kept := _readable(adapter / CONFIG_FILE)) is not None:
        return adapter, kept
    if (run := run_of(adapter)) is not None:
        with suppress(FileNotFoundError):
            return run, kept_tables(run / CONFIG_FILE)
    return None


def adapter_prompt_format(adapter: Path) -> PromptFormat | None:
    """The prompt format of the SFT or run that an adapter folder belongs to; see `kept_prompt_format`."""
    found = settings_of(adapter)
    return None if found is None else _prompt_format(found[1])


def prompt_format_advice(config: TrainConfig) -> list[str]:
    """One line if the adapter to start from was trained with prompts of another format, else none."""
    adapter, asked_as = config.policy.adapter, config.rollout.prompt_format
    kept = None if adapter is None else adapter_prompt_format(adapter)
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
    trained = base_of(policy.adapter) or _named_base(policy.adapter)
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
        found = settings_of(adapter)
    except (OSError, ValueError, RecursionError, UsageError):
        return None
    name = named.get("base_model_name_or_path") if isinstance(named, dict) else None
    quantization = None if found is None else table_of(found[1], "policy").get("quantization")
    if not isinstance(name, str) or not isinstance(quantization, str | None):
        return None
    return BaseRecord.of(name, quantization)


def kept_prompt_format(path: Path) -> PromptFormat | None:
    """The prompt format of kept settings; plain if they are older than this setting, None if there are no settings."""
    kept = _readable(path)
    return None if kept is None else _prompt_format(kept)


def kept_dtype(path: Path) -> str | None:
    """policy.dtype of kept settings; float32 if they are older than this setting, None if there are no settings."""
    kept = _readable(path)
    return None if kept is None else str(table_of(kept, "policy").get("dtype", "float32"))


def training_data(adapter: Path) -> DataConfig | None:
    """The data settings of the SFT or run that an adapter folder belongs to; None if they are not known.

    An SFT's ``num_questions`` is its number of examples. For a run of `train-offline` they are the settings that its file
    of rollouts was collected with, or the settings of the run that wrote this file.
    """
    _, kept = settings_of(adapter) or (adapter, {})
    if (rollouts := trained_on_file(kept)) is not None:
        kept = _readable(settings_beside(rollouts)) or {}
        if not kept and rollouts.parent.name == ROLLOUTS_FOLDER:
            kept = _readable(rollouts.parent.parent / CONFIG_FILE) or {}
    # The table of an SFT and that of `collect` have the same keys.
    data = table_of(TrainConfig.with_past_meaning(kept), "data")
    if (num_examples := table_of(kept, "sft").get("num_examples")) is not None:
        data = {**data, "num_questions": num_examples}
    with suppress(ValidationError):
        return DataConfig.model_validate(data) if "source" in data else None
    return None


def trained_on_file(kept: Mapping[str, Any]) -> Path | None:
    """The file of rollouts of a run of `train-offline`; None for the settings of others."""
    rollouts = kept.get("rollouts")
    return Path(rollouts) if isinstance(rollouts, str) else None


def _readable(path: Path) -> dict[str, Any] | None:
    """Kept settings; None if there are none that can be read."""
    with suppress(FileNotFoundError, UsageError):
        return kept_tables(path)
    return None


def _prompt_format(kept: Mapping[str, Any]) -> PromptFormat:
    found = kept.get("prompt_format") or table_of(kept, "rollout").get("prompt_format")
    return "chat" if found == "chat" else "plain"
