"""How models are asked that say nothing else: as in the run, or the SFT, that trained them."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.config.sections import EvaluationConfig, RolloutConfig, SFTRunConfig
from trainer.errors import UsageError
from trainer.evaluation.candidates import parse_candidates
from trainer.io.kept_settings import settings_of

_OF_A_RUN = ("arms", "prompt_format", "stop", "max_tokens")
_OF_AN_SFT = ("arms", "prompt_format")


def as_trained(config: EvaluationConfig) -> tuple[EvaluationConfig, str | None]:
    """The evaluation with the arms, prompt format, stop strings and length of the models' own training.

    A key that the evaluation was given, by a flag, a variable or a file, stays as it is.

    Returns:
        The evaluation, and a line on what was taken from where; None where nothing was.

    Raises:
        UsageError: Two of the models were trained with different values of a key, or the settings of a run are damaged.
    """
    given = config.model_fields_set
    taken: dict[str, Any] = {}
    sources: dict[str, Path] = {}
    for candidate in parse_candidates(config.models):
        folder = candidate.model.folder
        found = None if folder is None else _settings_of(folder)
        if found is None:
            continue
        source, settings = found
        for key, value in settings.items():
            if key in given:
                continue
            if key in taken and not _asks_alike(key, taken[key], value, config):
                raise UsageError(
                    f"{key}: {sources[key]} was trained with {_shown(taken[key], sampling=True)} and {source} with "
                    f"{_shown(value, sampling=True)}; say with --{key} how to ask both"
                )
            taken[key], sources[key] = value, source
    changed = {key: value for key, value in taken.items() if value != getattr(config, key)}
    if not changed:
        return config, None
    names = [arm.name for arm in changed.get("arms", config.arms)]
    line = (
        f"asked as in {', '.join(dict.fromkeys(str(sources[key]) for key in changed))}: "
        + ", ".join(f"{key} {_shown(value)}" for key, value in changed.items())
        + "; flags change it"
    )
    if "arm" not in given and config.arm not in names:
        changed["arm"] = names[0]
    return config.model_copy(update=changed), line


def _settings_of(adapter: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The folder of the run or the SFT that an adapter is of, with how it asked; None where nothing says."""
    folder, kept = settings_of(adapter) or (adapter, {})
    with suppress(ValidationError):
        if "rollout" in kept:
            run = RolloutConfig.read_kept(kept["rollout"])
            return folder, {key: getattr(run, key) for key in _OF_A_RUN}
        if "sft" in kept:
            sft = SFTRunConfig.read_kept(kept)
            return folder, {key: getattr(sft, key) for key in _OF_AN_SFT}
    return None


def _asks_alike(key: str, first: Any, second: Any, config: EvaluationConfig) -> bool:
    """Whether two values of a key ask models the same; greedy answers know no temperature and no top_p."""
    if key != "arms" or config.samples_per_arm:
        return bool(first == second)
    prompts = [[(arm.name, arm.system_prompt) for arm in arms] for arms in (first, second)]
    return prompts[0] == prompts[1]


def _shown(value: Any, *, sampling: bool = False) -> str:
    """A value as a message has it; arms by their names, and with their ``sampling`` where only that may differ."""
    if not isinstance(value, tuple):
        return str(value)
    return ", ".join(
        repr(part)
        if isinstance(part, str)
        else f"{part.name} (temperature {part.temperature:g}, top_p {part.top_p:g})"
        if sampling
        else part.name
        for part in value
    )
