"""The questions of a run: loaded before its server is known, then without those that the server cannot be asked."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inference_server.wire.schemas import ServerStatus
from trainer.config.sections import DataConfig, TrainConfig
from trainer.data.context_limit import fitting
from trainer.data.counterfactuals import (
    Counterfactuals,
    askable_counterfactuals,
    check_counterfactuals,
)
from trainer.data.held_out import require_held_out
from trainer.data.notices import load_with_notices
from trainer.data.sources import Record, load_records
from trainer.data.word_problems import Split
from trainer.rollouts.questions import QuestionState, QuestionStream
from trainer.run_state.recorded_questions import SourceQuestions


@dataclass(frozen=True, kw_only=True)
class LoadedQuestions:
    """The questions of a run's sources."""

    training: Sequence[Record]
    held_out: Sequence[Record]
    """Those of its evaluations; none if it evaluates nothing."""
    lines: Sequence[str] = ()
    """What is to be said of them at the start."""


@dataclass(frozen=True, kw_only=True)
class AskedQuestions:
    """What a run asks its server."""

    training: SourceQuestions
    counterfactuals: Counterfactuals
    held_out: SourceQuestions | None
    """None if the run evaluates nothing."""

    def stream(self, data: DataConfig, state: QuestionState) -> QuestionStream:
        """The questions to train on that come after a state."""
        records, asked = self.training.records, self.training.asked
        return QuestionStream(
            asked,
            seed=data.seed,
            rest_after=data.curriculum,
            state=state,
            counterfactuals=self.counterfactuals,
            counterfactual_share=data.counterfactual,
            too_long={record.id for record in records} - {record.id for record in asked},
        )


def load_questions(config: TrainConfig) -> LoadedQuestions:
    """The run's questions, checked as far as it is possible without a server.

    Raises:
        UsageError: They cannot be loaded, or no counterfactual can be made of them where some are asked for.
    """
    data, run, lines = config.data, config.run, list[str]()
    training = load_with_notices(
        data.source,
        Split.TRAIN,
        num_records=data.num_questions,
        key="data.num_questions",
        seed=data.seed,
        shape=data.shape,
        say=lines.append,
    )
    check_counterfactuals(config, training)
    if run.evaluate_every is None:
        return LoadedQuestions(training=training, held_out=(), lines=lines)
    held_out = load_records(
        require_held_out(data, "run.evaluate_every"),
        Split.HELD_OUT,
        num_records=run.num_evaluation_questions,
        seed=data.seed,
        shape=data.shape,
    )
    return LoadedQuestions(training=training, held_out=held_out, lines=lines)


def fitting_questions(
    loaded: LoadedQuestions, config: TrainConfig, status: ServerStatus, lines: list[str]
) -> AskedQuestions:
    """The questions that fit the server's context.

    Args:
        loaded: The run's questions.
        config: The run's configuration.
        status: The server's status.
        lines: Gets lines about the questions that are left out or too few, and those of ``loaded``.

    Raises:
        UsageError: None fits the context.
    """
    lines += loaded.lines
    asked = fitting(loaded.training, config.policy.base_model, config.rollout, status, lines.append)
    per_step = config.rollout.questions_per_step
    # The rest of a step are counterfactuals.
    if len(asked) < per_step - math.floor(per_step * config.data.counterfactual):
        lines.append(
            f"warning: {config.data.source} has {len(asked)} questions to ask, fewer than rollout.questions_per_step = "
            f"{per_step}: a step asks a question more than once"
        )
    return AskedQuestions(
        training=SourceQuestions(records=loaded.training, asked=asked),
        counterfactuals=askable_counterfactuals(config, asked, status, lines),
        held_out=fitting_held_out(loaded.held_out, config, status, lines.append),
    )


def fitting_held_out(
    records: Sequence[Record], config: TrainConfig, status: ServerStatus, say: Callable[[str], None]
) -> SourceQuestions | None:
    """The held-out questions that fit the server's context under the first arm; None for no questions.

    Raises:
        UsageError: None fits.
    """
    if not records:
        return None
    rollout = config.rollout.model_copy(update={"arms": config.rollout.arms[:1]})
    asked = fitting(records, config.policy.base_model, rollout, status, say)
    return SourceQuestions(records=records, asked=asked)
