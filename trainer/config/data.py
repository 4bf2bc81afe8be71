"""The questions to train and to evaluate on."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from inference_server.wire.prompt_options import NotBlank
from inference_server.wire.settings.model import SettingsModel
from regime_w.answer_types.answer_type import AnswerTypeName
from trainer.config.base import Seed

BuiltInSource = Literal["word-problems", "one-step-problems"]
_DEFAULT_SOURCE: BuiltInSource = "word-problems"


def is_built_in(source: str) -> bool:
    """Whether a source, such as ``word-problems`` or its part ``word-problems#train``, comes with this program."""
    return source.partition("#")[0] in get_args(BuiltInSource)


@dataclass(frozen=True, kw_only=True)
class RecordShape:
    """Which columns of a source hold the question, the answer and the choices, and which type the answers have."""

    question: str = "question"
    answer: str = "answer"
    choices: str | None = None
    answer_type: AnswerTypeName = "number"
    key_prefix: str = "data."
    """What the command's keys for these have before their names, for messages."""

    def __post_init__(self) -> None:
        """Check that the columns differ.

        Raises:
            ValueError: Two of them are the same.
        """
        columns = [name for name in (self.question, self.answer, self.choices) if name is not None]
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(
                f"two of the columns question, answer and choices are {repeated[0]!r}; name a different one for each"
            )


def _is_of_a_choice(column: str | None, info: ValidationInfo) -> str | None:
    """Refuse a column of choices if the field ``answer_type`` before it is not ``choice``."""
    prefix = (info.field_name or "").removesuffix("choices")
    answer_type = info.data.get(f"{prefix}answer_type", "choice")
    if column is not None and answer_type != "choice":
        raise ValueError(
            f"a column of choices is for {prefix}answer_type = choice, not {answer_type}: set it to choice, or "
            "leave the column out"
        )
    return column


ChoicesColumn = Annotated[NotBlank | None, AfterValidator(_is_of_a_choice)]
"""Column of the choices' texts. The field's name is ``choices``, and a field ``answer_type`` precedes it; both names
may have a prefix, which must be the same."""


class DataConfig(SettingsModel):
    """The questions to train and to evaluate on."""

    source: NotBlank = _DEFAULT_SOURCE
    """`word-problems` or `one-step-problems` (built in), a file of {"question", "answer"} records (JSON lines, a
    list in JSON, CSV, TSV or Parquet), or a Hub dataset such as `openai/gsm8k:main`. SOURCE#train and
    SOURCE#held_out are two disjoint parts of it."""
    evaluation_source: NotBlank | None = None
    """Held-out questions, in the same forms, for run.evaluate_every, SFT's evaluation loss and `eval`. If the source is
    built in, null is `word-problems`. With a source of your own, null means that there are none: run.evaluate_every and
    `eval` are refused, and SFT measures no held-out loss."""
    question: NotBlank = "question"
    """Column of both sources with the question, such as `problem`: a text, or messages of which one is the user's.
    If there is no column `question`, the default reads `prompt` or `messages`."""
    answer: NotBlank = "answer"
    """Column with the right answer, or with a solution that ends in it, such as `solution`; `extra_info.answer` is the
    key `answer` of the tables in the column `extra_info`. If there is no column `answer`, the default reads
    `reward_model.ground_truth`, or else the assistant's message."""
    answer_type: AnswerTypeName = "number"
    """Type of the answers: `number` (exact), `choice` (a letter, its index from 0, or the choice's text),
    `text` (equal except for case, markup, and punctuation around it), or `math` (LaTeX that math-verify finds
    equal; needs the extra `math`)."""
    choices: ChoicesColumn = None
    """For answer_type = choice: the column with the list of the choices' texts, which are put below the question as
    A) to Z). Null if the question's text already shows them."""
    num_questions: Annotated[int, Field(ge=1)] = 20_000
    """Most distinct questions to use, which are the first of the source. When all were asked, a new shuffle begins."""
    seed: Seed = 0
    """Seed of the built-in generator and of the shuffles."""
    curriculum: Annotated[int, Field(ge=1)] | None = None
    """How many times in a row all arms must solve a question before it is asked less often: in every
    second epoch, then in every fourth, then in every eighth, until one of them fails. Null asks every
    question equally often."""
    counterfactual: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0
    """For `train`: share of the questions, at most 0.5, that are counterfactuals. A counterfactual is another question
    of the step with one number changed and its answer computed again; s_cf then compares the answers to both (under
    reward.formulas = cross_checked). Needs answers with GSM8K's annotated steps (<<3*4=12>>), as the built-in
    sources have them; if few questions have them, the share is smaller. A counterfactual that is among the held-out
    questions of data.evaluation_source is never asked."""

    @model_validator(mode="after")
    def _shape_is_possible(self) -> Self:
        _ = self.shape
        if self.counterfactual and self.answer_type != "number":
            raise ValueError(
                f"counterfactual is for answer_type = number, not {self.answer_type}: leave it out"
            )
        return self

    @property
    def held_out_source(self) -> str | None:
        """The source of the held-out questions; None if there are none."""
        if self.evaluation_source is None and is_built_in(self.source):
            return _DEFAULT_SOURCE
        return self.evaluation_source

    @property
    def shape(self) -> RecordShape:
        """The columns, and the type of the answers."""
        return RecordShape(
            question=self.question,
            answer=self.answer,
            choices=self.choices,
            answer_type=self.answer_type,
        )
