"""Asks several models of the running server the same held-out questions.

Each model answers greedily, and through all arms if ``samples_per_arm`` is positive. Input: names of
served models and adapter folders. Output: an `Evaluation` and the file of its answers.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from inference_server.wire.prompt_options import resolve_format
from inference_server.wire.schemas import ServerStatus
from trainer.client.arms_client import ArmsClient
from trainer.client.asked_model import AskedModel, uploaded
from trainer.client.protocol import AdapterServer
from trainer.config.data import DataConfig
from trainer.config.sections import EvaluationConfig, RolloutConfig
from trainer.console.progress import bar
from trainer.console.terminal import print_line
from trainer.data.context_limit import fitting
from trainer.data.held_out import require_held_out
from trainer.data.sources import Record
from trainer.errors import UsageError
from trainer.evaluation.ask_model import ask_model
from trainer.evaluation.candidates import EvaluatedModel, parse_candidates
from trainer.evaluation.questions import asked_questions, contamination_lines
from trainer.evaluation.records import (
    ModelAnswers,
    QuestionAnswers,
    answers_path,
    are_answers,
    write_answers,
)
from trainer.evaluation.results import Evaluation, ModelResult, compare_all, is_evaluation
from trainer.evaluation.tables import print_table
from trainer.evaluation.training_settings import own_configuration_lines, with_training_settings
from trainer.io.base_record import BaseRecord, require_adapter_of
from trainer.io.paths import require_no_folder

OnProgress = Callable[[int, int], None]
"""Called with the number of questions answered so far and in all, over all models."""


async def evaluate(
    config: EvaluationConfig,
    client: AdapterServer,
    on_progress: OnProgress,
    say: Callable[[str], None] = print,
) -> Evaluation:
    """Ask every model every question, and write the result to ``config.output``.

    Args:
        config: The models, the questions and how to ask them.
        client: The server.
        on_progress: See `OnProgress`.
        say: Gets a line if questions are left out: the source has more, or they do not fit the server's context.

    Raises:
        UsageError: The configuration cannot be evaluated. Nothing was generated or uploaded.
        ServerError: The server stayed unreachable, refused a request, or aborted completions.
    """
    candidates = parse_candidates(config.models)
    _require_arm(config)
    if config.output is not None:
        _require_writable(config.output)
    records = asked_questions(config, say)
    status = await client.status()
    base = BaseRecord.served_as(status.base_model, status.base_fingerprint)
    for candidate in candidates:
        if candidate.model.folder is not None:
            require_adapter_of(candidate.model.folder, base, field="models")
    asked_as = resolve_format(config.prompt_format, has_chat_template=status.has_chat_template)
    config = config.model_copy(update={"prompt_format": asked_as})
    records = _askable(records, config, status, say)
    # Pinned now: the active version may change during the evaluation.
    served = {
        c.label: c.model.served_version(status, field="models")
        for c in candidates
        if c.model.folder is None
    }
    models = {c.label: EvaluatedModel.of(c.model, served.get(c.label), status) for c in candidates}

    answers: dict[str, list[ModelAnswers]] = {}
    num_answered, num_total = 0, len(candidates) * len(records)
    # Served models go first: an upload may make the server retire its oldest version.
    for candidate in sorted(candidates, key=lambda c: c.model.folder is not None):
        label, folder = candidate.label, candidate.model.folder
        pinned = AskedModel(client, served.get(label))
        async with nullcontext(pinned) if folder is None else uploaded(client, folder) as model:
            answers[label] = []
            for start in range(0, len(records), config.batch_size):
                batch = records[start : start + config.batch_size]
                answers[label] += await ask_model(client, model, batch, config)
                num_answered += len(batch)
                on_progress(num_answered, num_total)

    evaluation, questions = _result(config, base, models, records, answers)
    if config.output is not None:
        write_answers(answers_path(config.output), questions)
        evaluation.write(config.output)
    return evaluation


def _askable(
    records: Sequence[Record],
    config: EvaluationConfig,
    status: ServerStatus,
    say: Callable[[str], None],
) -> list[Record]:
    """The questions that fit the server's context under every prompt that they are asked with."""
    arms = config.arms if config.samples_per_arm else (config.greedy_arm,)
    rollout = RolloutConfig(
        arms=arms, max_tokens=config.max_tokens, prompt_format=config.prompt_format
    )
    return fitting(records, status.base_model, rollout, status, say, max_tokens_key="max_tokens")


def _result(
    config: EvaluationConfig,
    base: BaseRecord,
    models: Mapping[str, EvaluatedModel],
    records: Sequence[Record],
    answers: Mapping[str, Sequence[ModelAnswers]],
) -> tuple[Evaluation, list[QuestionAnswers]]:
    """The evaluation and the lines of its answers file.

    Args:
        config: What was asked.
        base: The server's.
        models: Label to the model, in the configured order.
        records: The questions.
        answers: Label to the answers, in the order of the records.
    """
    questions = [
        QuestionAnswers(
            id=record.id,
            question=record.question,
            gold=record.gold,
            answer_type=record.answer_type.name,
            models={label: answers[label][index] for label in models},
        )
        for index, record in enumerate(records)
    ]
    evaluation = Evaluation(
        base_model=base.base_model,
        base_fingerprint=base.fingerprint,
        data=config.data,
        data_seed=config.data_seed,
        num_questions=len(records),
        arm=config.greedy_arm.name,
        samples_per_arm=config.samples_per_arm,
        seed=config.seed,
        max_tokens=config.max_tokens,
        answer_type=config.data_answer_type,
        prompt_format="chat" if config.prompt_format == "chat" else "plain",
        stop=config.stop,
        models=tuple(ModelResult.of(label, model, questions) for label, model in models.items()),
        differences=compare_all(list(models), questions),
    )
    return evaluation, questions


def run_evaluation(config: EvaluationConfig) -> Evaluation:
    """Evaluate with a progress bar and print the table."""
    console = Console()
    given = config
    config, taken = with_training_settings(given)
    if config.train_data is not None and "data" not in config.model_fields_set:
        require_held_out(DataConfig(source=config.train_data), "eval (or --data)")

    def say(line: str) -> None:
        print_line(console, line)

    lines = [*contamination_lines(config), *own_configuration_lines(given)]
    for line in [*lines, *([taken] if taken else [])]:
        say(line)
    with bar(console) as progress:
        task = progress.add_task("eval", total=None)

        def on_progress(num_done: int, num_total: int) -> None:
            progress.update(task, completed=num_done, total=num_total)

        async def connect_and_evaluate() -> Evaluation:
            async with ArmsClient(config.server) as client:
                return await evaluate(config, client, on_progress, say)

        evaluation = asyncio.run(connect_and_evaluate())
    print_table(evaluation, console)
    return evaluation


def _require_arm(config: EvaluationConfig) -> None:
    arms = [arm.name for arm in config.arms]
    if config.arm is not None and config.arm not in arms:
        raise UsageError(
            f"eval.arm (--arm): {config.arm!r} is not one of the arms that are asked: {', '.join(arms)}; leave it out "
            "for the first of them"
        )


def _require_writable(output: Path) -> None:
    """Refuse an output that cannot be written, or holds something else, before any work is done."""
    require_no_folder(output, field="output")
    for path, is_ours in ((output, is_evaluation), (answers_path(output), are_answers)):
        if path.exists() and path.stat().st_size and not is_ours(path):
            raise UsageError(
                f"output: {path} exists, was not written by an evaluation, and would be replaced; choose another file"
            )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output: {output.parent}: {error.strerror}") from None
