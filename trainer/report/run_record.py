"""A run's folder as the report reads it: metrics, configuration, evaluation."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from inference_server.wire.digests import sha256_of_file
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE
from trainer.config.data import is_built_in
from trainer.config.sections import OfflineRunConfig, TrainConfig
from trainer.data.held_out import is_same_source
from trainer.errors import UsageError
from trainer.evaluation.results import EVALUATION_FILE, Evaluation, ModelResult
from trainer.io.base_record import BaseRecord, other_base, read_base
from trainer.io.kept_settings import CONFIG_FILE, command_of, kept_tables, read_kept
from trainer.io.metrics_file import METRICS_FILE, Metrics, read_with_late, with_late
from trainer.io.run_layout import START_FOLDER, version_of_name


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run has recorded so far."""

    folder: Path
    rows: list[Metrics]
    """Metrics of each step, oldest first; empty only if `read_run` was called with ``with_steps=False``."""
    config_text: str | None
    """Content of ``config.toml``; None if there is none."""
    config: TrainConfig | None
    """The parsed configuration; None if this version of the program cannot read it."""
    command: str | None = None
    """The command that wrote ``config.toml``; None if that is not known."""
    offline_config: OfflineRunConfig | None = None
    """The whole configuration of a run of `train-offline`; None of another run, or if it cannot be read."""
    has_evaluation: bool
    """Whether there is an evaluation file, readable or not."""
    evaluation: Evaluation | None
    """The evaluation; None if there is none, its file cannot be read, or `left_out` says why it does not count."""
    left_out: str | None = None
    """A sentence that says that the evaluation is of another base than the run's; None unless that is known."""
    late_evaluations: list[Metrics] = field(default_factory=list)
    """Evaluations during training that no row of a step has, oldest first."""

    def series(self, name: str) -> list[float]:
        """A metric's values over the steps that have it, oldest first."""
        return [row[name] for row in self.measured if name in row]

    def first_quarter(self, name: str) -> float | None:
        """A metric's mean over the first quarter of the steps that have it; None if no step has it."""
        values = self.series(name)
        earliest = values[: max(1, len(values) // 4)]
        return math.fsum(earliest) / len(earliest) if earliest else None

    def last_quarter(self, name: str) -> float | None:
        """A metric's mean over the last quarter of the steps that have it; None if no step has it."""
        values = self.series(name)
        latest = values[-max(1, len(values) // 4) :]
        return math.fsum(latest) / len(latest) if latest else None

    @property
    def unreadable(self) -> str | None:
        """A sentence that says that the evaluation cannot be read; None if it can, or there is none."""
        if not self.has_evaluation or self.evaluation is not None or self.left_out is not None:
            return None
        return f"{EVALUATION_FILE} cannot be read: it is damaged, or another version wrote it. Evaluating again replaces it."

    @property
    def compared(self) -> tuple[ModelResult, ModelResult] | None:
        """The evaluated models to compare: the run's starting point, and its newest trained adapter.

        The start is recognised by its folder or digest; failing that, the last other model before the trained one is
        taken, but neither another version nor a base that the run did not begin with: what these show is not the run's
        effect. None if there are not two such models.
        """
        if self.evaluation is None or len(self.evaluation.models) < 2:
            return None
        models = self.evaluation.models
        trained = next((model for model in reversed(models) if self._is_trained(model)), models[-1])
        before = models[: models.index(trained)]
        for model in before:
            if self._is_start(model, trained):
                return model, trained
        others = [m for m in before if not (self._is_trained(m) or self._is_other_base(m))]
        return (others[-1], trained) if others else None

    def num_evaluations_chosen_from(self, model: ModelResult) -> int:
        """From how many evaluations during training a model was chosen as the best; 0 if it was not.

        The newest version was not chosen: it is evaluated whether it is the best or not.
        """
        version = version_of_name(Path(model.model).name)
        rows = [row for row in self.measured if "eval/version" in row and "eval/best_step" in row]
        best = [
            row["eval/version"]
            for row in rows
            if row.get("eval/step") == rows[-1]["eval/best_step"]
        ]
        is_newest = version == self.rows[-1].get("version") if self.rows else True
        return 0 if version is None or is_newest or version not in best else len(rows)

    @property
    def held_out(self) -> str | None:
        """Source of the run's held-out questions; None if its settings name none, as in runs of `train-offline`."""
        if self.config is None or "source" not in self.config.data.model_fields_set:
            return None
        return self.config.data.held_out_source

    def other_data(self, shown: Callable[[str], str] = str) -> str | None:
        """A sentence that says that the evaluation's questions are not from the run's source; None unless that is known.

        Args:
            shown: Formats the name of a source.
        """
        if self.evaluation is None or self.config is None:
            return None
        asked, data = self.evaluation.data, self.config.data
        if "source" not in data.model_fields_set:
            return None
        if self.held_out is None:
            if not is_built_in(asked):
                return None
            own = f"the run was trained on {shown(data.source)}, and its settings name no held-out questions"
        elif is_same_source(asked, self.held_out):
            return None
        else:
            own = (
                "the run's held-out questions (data.evaluation_source) are those of "
                f"{shown(self.held_out)}"
            )
        return f"The questions are those of {shown(asked)}, but {own}."

    @property
    def measured(self) -> list[Metrics]:
        """The rows of the steps and the late evaluations, in the order in which they were measured."""
        return with_late(self.rows, self.late_evaluations)

    def _is_trained(self, model: ModelResult) -> bool:
        path = Path(model.model)
        return version_of_name(path.name) is not None or path.resolve() == self.folder.resolve()

    def _is_start(self, model: ModelResult, trained: ModelResult) -> bool:
        if self.config is not None and self._adapter is None and self._is_base(model):
            return True
        path = Path(model.model)
        version = version_of_name(path.name)
        if version is not None and path.parent == Path(trained.model).parent:
            # What was pushed before the first step.
            first = self.rows[0] if self.rows else {}
            return first.get("step") == 1 and version < first.get("version", 0)
        starts = [s for s in (self.folder / START_FOLDER, self._adapter) if s is not None]
        if path.resolve() in [start.resolve() for start in starts]:
            return True
        # The run, or the adapter that it began with, may have been moved since.
        files = [start / ADAPTER_WEIGHTS_FILE for start in starts]
        return model.adapter_sha256 in [sha256_of_file(file) for file in files if file.is_file()]

    def _is_other_base(self, model: ModelResult) -> bool:
        """Whether a model is the base, although the run began with an adapter."""
        return self._adapter is not None and self._is_base(model)

    def _is_base(self, model: ModelResult) -> bool:
        return self.evaluation is not None and model.model == self.evaluation.base_model

    @property
    def _adapter(self) -> Path | None:
        return None if self.config is None else self.config.policy.adapter


def read_run(folder: Path, *, with_steps: bool = True) -> RunRecord:
    """Read what the run has recorded so far.

    Args:
        folder: The run's folder.
        with_steps: Whether at least one step must be finished.

    Raises:
        UsageError: The folder does not exist, has no metrics yet although ``with_steps`` is set, or its metrics or
            settings are damaged.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}")
    config_path = folder / CONFIG_FILE
    tables = kept_tables(config_path) if config_path.is_file() else None
    command = None if tables is None else command_of(tables)
    rows, late_evaluations = read_with_late(folder)
    if with_steps and not rows:
        raise UsageError(
            f"no metrics in {folder / METRICS_FILE}; name a run with at least one finished step"
        )
    evaluation_path = folder / EVALUATION_FILE
    evaluation = _read_evaluation(evaluation_path)
    left_out = None if evaluation is None else _other_base(folder, evaluation)
    offline_config = _read_offline_config(config_path)
    is_readable = command != "train-offline" or offline_config is not None
    return RunRecord(
        folder=folder,
        rows=rows,
        config_text=None if tables is None else config_path.read_text("utf-8-sig"),
        config=_read_config(tables) if tables is not None and is_readable else None,
        command=command,
        offline_config=offline_config,
        has_evaluation=evaluation_path.is_file(),
        evaluation=evaluation if left_out is None else None,
        left_out=left_out,
        late_evaluations=late_evaluations,
    )


def _read_config(tables: Mapping[str, Any]) -> TrainConfig | None:
    """The sections that the report uses; None if this version of the program cannot read them.

    The configuration of `train-offline` has further sections, which are skipped.
    """
    try:
        return TrainConfig.model_validate(
            {name: tables[name] for name in TrainConfig.model_fields if name in tables}
        )
    except ValidationError:
        return None


def _read_offline_config(path: Path) -> OfflineRunConfig | None:
    try:
        kept = read_kept(path)
    except (FileNotFoundError, UsageError):
        return None
    return kept if isinstance(kept, OfflineRunConfig) else None


def _read_evaluation(path: Path) -> Evaluation | None:
    try:
        return Evaluation.read(path)
    except (OSError, ValidationError):
        return None


def _other_base(folder: Path, evaluation: Evaluation) -> str | None:
    evaluated = BaseRecord.served_as(evaluation.base_model, evaluation.base_fingerprint)
    if (line := other_base(read_base(folder), evaluated)) is None:
        return None
    return f"{EVALUATION_FILE} is left out: the run {line}, which was evaluated."
