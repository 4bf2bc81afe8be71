"""By default, asks models the held-out questions of the run or the SFT that trained them, and in the same way."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.config.sections import DataConfig, EvaluationConfig, OfflineRunConfig, SFTRunConfig
from trainer.errors import UsageError
from trainer.evaluation.candidates import parse_candidates
from trainer.io.adapter_settings import own_configuration, settings_of, training_data
from trainer.io.change_text import sampled_arm
from trainer.io.run_layout import run_of

_OF_A_RUN = ("arms", "prompt_format", "stop", "max_tokens")
_OF_AN_SFT = ("arms", "prompt_format")
_DATA = {
    "data": "held_out_source",
    "data_question": "question",
    "data_answer": "answer",
    "data_answer_type": "answer_type",
    "data_choices": "choices",
}
"""Keys of the evaluation's data settings, to the attributes of a run's `DataConfig`."""


def with_training_settings(config: EvaluationConfig) -> tuple[EvaluationConfig, str | None]:
    """The evaluation with the data, arms, prompt format, stop strings and length of the models' own training.

    A key that the evaluation was given by a flag, a variable or a file stays as it is. If ``data`` was given, its
    columns and answer type stay as they are, too. If runs and SFTs are evaluated together, the runs' data is taken.

    Returns:
        The evaluation, and a line that says what was taken from where; None if nothing was.

    Raises:
        UsageError: Two of the models were trained with different values of a key, they name no held-out
            questions, or the settings that a key would be taken from cannot be read.
    """
    taken = _Taken(config)
    adapters = _adapters(config)
    for adapter in adapters:
        if (found := _settings_of(adapter, config)) is not None:
            taken.take(*found)
    if "data" not in config.model_fields_set:
        of_data = [each for each in map(_data_of, adapters) if each is not None]
        if not of_data:
            _refuse_unknown(adapters)
        of_runs = [(folder, data) for folder, data, is_run in of_data if is_run]
        for folder, data in of_runs or [(folder, data) for folder, data, _ in of_data]:
            taken.take(folder, _asked_of(folder, data))
    changed = taken.changed
    if not changed:
        return config, None
    line = (
        f"asked as in {', '.join(dict.fromkeys(str(taken.sources[key]) for key in changed))}: "
        + ", ".join(f"{key} {_shown(value)}" for key, value in changed.items())
        + "; flags override this"
    )
    return config.model_copy(update=changed), line


def own_configuration_lines(config: EvaluationConfig) -> list[str]:
    """One line for each adapter beside which somebody's own configuration stands, which says nothing of its training."""
    lines = []
    if missing := _not_given(config, ("data", *_OF_A_RUN)):
        for adapter in _adapters(config):
            with suppress(UsageError):  # all that would be taken from these settings is given
                if (path := own_configuration(adapter)) is not None:
                    lines.append(
                        f"warning: {path}: not the settings that a command has kept, so nothing says how {adapter} was "
                        f"asked in its training; {missing} say how to ask it"
                    )
    return lines


class _Taken:
    """Values that an evaluation takes from what its models were trained with."""

    def __init__(self, config: EvaluationConfig):
        self.sources: dict[str, Path] = {}
        """For each key, the folder that its value was taken from."""
        self._config = config
        self._values: dict[str, Any] = {}

    def take(self, source: Path, settings: Mapping[str, Any]) -> None:
        """Take the settings that the evaluation was not given.

        Raises:
            UsageError: A key has another value here than in the folder that it was taken from before.
        """
        for key, value in settings.items():
            if key in self._config.model_fields_set:
                continue
            if key in self._values and not _asks_alike(key, self._values[key], value, self._config):
                raise UsageError(
                    f"{key}: {self.sources[key]} was trained with {_shown(self._values[key], sampling=True)} and "
                    f"{source} with {_shown(value, sampling=True)}; say with --{key} how to ask both models"
                )
            self._values[key], self.sources[key] = value, source

    @property
    def changed(self) -> dict[str, Any]:
        """The values that differ from those which the evaluation has by itself."""
        return {
            key: value for key, value in self._values.items() if value != getattr(self._config, key)
        }


def _refuse_unknown(adapters: Sequence[Path]) -> None:
    """Refuse models that `train-offline` has trained on unknown questions.

    Raises:
        UsageError: There is such a model.
    """
    for adapter in adapters:
        folder, kept = settings_of(adapter) or (adapter, None)
        if isinstance(kept, OfflineRunConfig):
            raise UsageError(
                f"data: {folder} was trained on {kept.rollouts}, and no settings beside that file say which questions; "
                "say with --data what to ask, such as a file of held-out questions or word-problems"
            )


def _data_of(adapter: Path) -> tuple[Path, DataConfig, bool] | None:
    """The folder of the run or the SFT that an adapter belongs to, its data settings, and whether it is a run.

    Raises:
        UsageError: The settings that a run's rollouts were collected with cannot be read.
    """
    found = settings_of(adapter)
    try:
        data = training_data(adapter)
    except UsageError as error:
        raise _unreadable(error, "--data") from None
    if data is None or found is None:
        return None
    return found[0], data, not isinstance(found[1], SFTRunConfig)


def _asked_of(folder: Path, data: DataConfig) -> Mapping[str, Any]:
    """The evaluation's data settings for the held-out questions of a run or an SFT.

    Raises:
        UsageError: It names no held-out questions.
    """
    if data.held_out_source is None:
        raise UsageError(
            f"data: {folder} was trained on {data.source}, and its data.evaluation_source names no held-out "
            "questions; say with --data what to ask, such as a file of held-out questions or word-problems"
        )
    return {key: getattr(data, name) for key, name in _DATA.items()}


def _settings_of(adapter: Path, config: EvaluationConfig) -> tuple[Path, Mapping[str, Any]] | None:
    """The folder of the run or the SFT that an adapter belongs to, and how it asked; None if no settings are found.

    Raises:
        UsageError: Its settings cannot be read, and the evaluation was not given all that would be taken from them.
    """
    try:
        found = settings_of(adapter)
    except UsageError as error:
        keys = _OF_AN_SFT if run_of(adapter) is None else _OF_A_RUN
        if missing := _not_given(config, ("data", *keys)):
            raise _unreadable(error, missing) from None
        return None
    if found is None:
        return None
    folder, kept = found
    if isinstance(kept, SFTRunConfig):
        return folder, {key: getattr(kept, key) for key in _OF_AN_SFT}
    return folder, {key: getattr(kept.rollout, key) for key in _OF_A_RUN}


def _adapters(config: EvaluationConfig) -> list[Path]:
    folders = [candidate.model.folder for candidate in parse_candidates(config.models)]
    return [folder for folder in folders if folder is not None]


def _not_given(config: EvaluationConfig, keys: Sequence[str]) -> str:
    """The flags of those keys that the evaluation was not given."""
    return ", ".join(f"--{key}" for key in keys if key not in config.model_fields_set)


def _unreadable(error: UsageError, flags: str) -> UsageError:
    return UsageError(
        f"{error} (this file says how the model was trained; without it, say with {flags} how to ask it)"
    )


def _asks_alike(key: str, first: Any, second: Any, config: EvaluationConfig) -> bool:
    """Whether models are asked the same with two values of a key; greedy answers do not use temperature and top_p."""
    if key != "arms" or config.samples_per_arm:
        return bool(first == second)
    prompts = [[(arm.name, arm.system_prompt) for arm in arms] for arms in (first, second)]
    return prompts[0] == prompts[1]


def _shown(value: Any, *, sampling: bool = False) -> str:
    """A value for a message: arms are shown by name, and with temperature and top_p if ``sampling`` is set."""
    if value is None or value == ():
        return "none"
    if not isinstance(value, tuple):
        return str(value)
    return ", ".join(
        repr(part) if isinstance(part, str) else sampled_arm(part) if sampling else part.name
        for part in value
    )
