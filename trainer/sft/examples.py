"""Loads demonstrations for supervised fine-tuning, turns them into token ids, and warns of unsuitable ones.

They are rendered by the code that renders the server's prompts; TRL gets token ids and renders nothing.
"""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from datasets import Dataset

from inference_server.wire.prompt_frames import Prompt
from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.prompts import PromptRenderer
from regime_w import ArmSpec
from trainer.config.sections import SFTRunConfig
from trainer.console.advice import low_learning_rate
from trainer.data.demonstrations import load_demonstrations
from trainer.data.notices import line_of_more, record_lines
from trainer.data.sources import Record
from trainer.data.word_problems import Split
from trainer.errors import DataError
from trainer.model.base_files import base_limits
from trainer.run_state.recorded_questions import QuestionRecord, SourceQuestions

_ANNOTATION = re.compile(r"<<[^<>]*>>")
_LONGEST_BARE_ANSWER = 40
"""Most characters of an answer that is taken to be bare, that is without a solution."""


def data_sets(
    config: SFTRunConfig, renderer: PromptRenderer, checkpoints: Path, say: Callable[[str], None]
) -> tuple[Dataset, Dataset | None, QuestionRecord]:
    """The examples to train on, the held-out ones if there is an evaluation, and the record of both."""
    prompt_format, seed = renderer.resolve(config.prompt_format), config.sft.seed
    context = base_limits(config.policy.base_model).context_tokens

    def examples(records: Sequence[Record], name: str) -> Dataset:
        rows = sft_examples(records, config.arms, renderer, prompt_format, seed=f"{name}/{seed}")
        return within_context(rows, context, say)

    training, held_out, record = load_data(config, checkpoints, say)
    return (
        examples(training, "sft"),
        examples(held_out, "sft/held-out") if held_out else None,
        record,
    )


def load_data(
    config: SFTRunConfig, checkpoints: Path, say: Callable[[str], None]
) -> tuple[list[Record], list[Record] | None, QuestionRecord]:
    """The demonstrations to train on, and held-out ones if there is an evaluation.

    They are compared with those of the last start, whose record is beside the checkpoints.
    """
    data, sft = config.data, config.sft
    training = load_demonstrations(
        data.source,
        Split.TRAIN,
        num_examples=sft.num_examples,
        seed=data.seed,
        shape=data.shape,
        on_more=lambda: say(line_of_more(data.source, sft.num_examples, "sft.num_examples")),
    )
    held_out = None
    if sft.num_evaluation_examples and data.held_out_source is not None:
        held_out = load_demonstrations(
            data.held_out_source,
            Split.HELD_OUT,
            num_examples=sft.num_evaluation_examples,
            seed=data.seed,
            shape=data.shape,
        )
    elif sft.num_evaluation_examples:
        say(
            f"no held-out loss is measured: data.evaluation_source names no held-out questions for {data.source}"
        )
    advice = sft_advice(sft.learning_rate, training, held_out or ())
    record = QuestionRecord(
        checkpoints,
        data,
        SourceQuestions(records=training, asked=training),
        None if held_out is None else SourceQuestions(records=held_out, asked=held_out),
        consequence="the steps to come learn from what is there now",
    )
    notices = record_lines(data.source, training, data.shape)
    for line in (*notices, *(f"warning: {each}" for each in advice), *record.lines):
        say(line)
    return training, held_out, record


def sft_examples(
    demonstrations: Sequence[Record],
    arms: Sequence[ArmSpec],
    renderer: PromptRenderer,
    prompt_format: PromptFormat,
    *,
    seed: str,
) -> Dataset:
    """Rows of ``input_ids`` and ``completion_mask``, which is 1 on the tokens that have a loss.

    These are the solution, without calculator annotations, and the token that ends it: EOS, or the chat template's
    end-of-turn token.

    Args:
        demonstrations: Questions with their solutions.
        arms: Each demonstration gets the system prompt of one of them, drawn at random.
        renderer: Renders prompts with the base model's tokenizer.
        prompt_format: Format of the prompts.
        seed: Seed of the random draws.
    """
    rng, end_id = random.Random(seed), renderer.end_token_id(prompt_format)
    end = [] if end_id is None else [end_id]
    rows = []
    for record in demonstrations:
        prompt = Prompt(system_prompt=rng.choice(arms).system_prompt, question=record.question)
        solution = _ANNOTATION.sub("", record.gold)
        asked, answer = renderer.demonstration(prompt, solution, prompt_format)
        mask = [0] * len(asked) + [1] * len(answer + end)
        rows.append({"input_ids": asked + answer + end, "completion_mask": mask})
    return Dataset.from_list(rows)


def within_context(examples: Dataset, context_tokens: int, say: Callable[[str], None]) -> Dataset:
    """The rows that fit the base model's context.

    Args:
        examples: Rows of `sft_examples`.
        context_tokens: Most tokens that a prompt and its solution may have together.
        say: Gets a line if rows are left out.

    Raises:
        DataError: No row fits.
    """
    lengths = [len(row["input_ids"]) for row in examples]
    fitting = [index for index, length in enumerate(lengths) if length <= context_tokens]
    if len(fitting) == len(lengths):
        return examples
    line = (
        f"data: {len(lengths) - len(fitting)} of {len(lengths)} demonstrations left out, the longest of "
        f"{max(lengths)} tokens: longer than the context of {context_tokens} of policy.base_model"
    )
    if not fitting:
        raise DataError(line)
    say(line)
    return examples.select(fitting)


def longest_tokens(*examples: Dataset | None) -> int:
    """Tokens of the longest row of any of the data sets."""
    return max(len(row["input_ids"]) for rows in examples if rows for row in rows)


def sft_advice(
    learning_rate: float, demonstrations: Sequence[Record], held_out: Sequence[Record]
) -> list[str]:
    """Warnings: of a learning rate too low for LoRA, and of demonstrations that are mostly answers without solutions.

    Args:
        learning_rate: ``sft.learning_rate``.
        demonstrations: Demonstrations to train on.
        held_out: Demonstrations whose loss is measured.
    """
    lines = low_learning_rate("sft.learning_rate", learning_rate)
    num_bare = sum(map(_is_answer_alone, demonstrations))
    num_bare_held_out = sum(map(_is_answer_alone, held_out))
    if 2 * num_bare > len(demonstrations):
        lines.append(
            f"{num_bare} of {len(demonstrations)} demonstrations are an answer alone, so SFT would teach the model to "
            "answer without steps: leave SFT out, which an instruct model does not need, or give solutions that end in "
            "'#### 18'"
        )
    elif 2 * num_bare_held_out > len(held_out):
        lines.append(
            f"{num_bare_held_out} of {len(held_out)} held-out demonstrations are an answer alone, but those that are "
            "trained on are not: the held-out loss will rise while the solutions are learned, and says nothing about "
            "them; name a source with solutions in data.evaluation_source, or set sft.num_evaluation_examples = 0"
        )
    return lines


def _is_answer_alone(demonstration: Record) -> bool:
    """Whether it seems to have no solution: it is one short line and, if the answer is a number, has no equation."""
    solution, _, answer = demonstration.gold.rpartition("####")
    if solution.strip() or "\n" in answer.strip() or len(answer) > _LONGEST_BARE_ANSWER:
        return False
    return not (demonstration.answer_type.is_numeric and "=" in answer)
