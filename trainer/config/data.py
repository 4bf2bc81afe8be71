"""The questions to train and to evaluate on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from inference_server.wire.prompt_options import NotBlank
from regime_w.answer_types.answer_type import AnswerTypeName
from trainer.config.base import Section, Seed

BuiltInSource = Literal["word-problems", "one-step-problems"]
_DEFAULT_SOURCE: BuiltInSource = "word-problems"


def is_built_in(source: str) -> bool:
    """Whether a source, or the one that a part is named of, comes with this program."""
    return source.partition("#")[0] in get_args(BuiltInSource)


@dataclass(frozen=True, kw_only=True)
class RecordShape:
    """Which columns of a source's records are what, and of which type the answers are."""

    question: str = "question"
    answer: str = "answer"
    choices: str | None = None
    answer_type: AnswerTypeName = "number"

    def __post_init__(self) -> None:
        """Check that the columns are different ones.

        Raises:
            ValueError: They are not.
        """
        columns = [name for name in (self.question, self.answer, self.choices) if name is not None]
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            raise ValueError(
                f"two of the columns question, answer and choices are {repeated[0]!r}; name one each"
            )


def _is_of_a_choice(column: str | None, info: ValidationInfo) -> str | None:
    """Refuse a column of choices where the field before it says that answers are something else."""
    prefix = (info.field_name or "").removesuffix("choices")
    answer_type = info.data.get(f"{prefix}answer_type", "choice")
    if column is not None and answer_type != "choice":
        raise ValueError(
            f"a column of choices is for {prefix}answer_type = choice, not {answer_type}: set that, or leave "
            "this out"
        )
    return column


ChoicesColumn = Annotated[NotBlank | None, AfterValidator(_is_of_a_choice)]
"""Column of the choices' texts, in a field ``choices`` behind a field ``answer_type``, both with one prefix."""


class DataConfig(Section):
    """The questions to train and to evaluate on."""

    defaults_before: ClassVar[Mapping[str, object]] = {"evaluation_source": _DEFAULT_SOURCE}

    source: NotBlank = _DEFAULT_SOURCE
    """`word-problems` or `one-step-problems` (built in), a file of {"question", "answer"} records (JSON lines, a
    list in JSON, CSV or Parquet), or a Hub dataset such as `openai/gsm8k:main`. SOURCE#train and
    SOURCE#held_out are two disjoint parts of it."""
    evaluation_source: NotBlank | None = None
    """The same for the held-out questions of run.evaluate_every, of SFT's evaluation loss and of `eval`. Null is
    `word-problems` where the source is built in; beside another one, run.evaluate_every and `eval` ask for a name,
    and SFT measures no held-out loss without. `word-problems` itself is kept as null or as
    `word-problems#held_out`, which are the same questions."""
    question: NotBlank = "question"
    """Column of both sources that has the question, such as `problem`, or messages of which one is the user's;
    `prompt` or `messages` where none is called question."""
    answer: NotBlank = "answer"
    """Column that has the right answer, or a solution that ends in it, such as `solution`, or `extra_info.answer`
    in a column of tables; `reward_model.ground_truth` where none is called answer, else the assistant's message."""
    answer_type: AnswerTypeName = "number"
    """What the answers are: `number` (exact), `choice` (a letter, its index from 0, or the choice's text),
    `text` (the same but for case, markup, and punctuation around it), or `math` (LaTeX that math-verify finds
    equal; needs the extra math)."""
    choices: ChoicesColumn = None
    """Column with the list of the choices' texts, which are put below the question as A) to Z), for
    answer_type = choice; null where the question has them itself."""
    num_questions: Annotated[int, Field(ge=1)] = 20_000
    """Most distinct questions to use; a new shuffle begins when all were asked."""
    seed: Seed = 0
    """Seed of the generator and of the shuffles."""
    curriculum: Annotated[int, Field(ge=1)] | None = None
    """How many times in a row all arms must solve a question before it is asked less often: in every
    second epoch, then in every fourth, then in every eighth, until one of them fails. Null asks every
    question equally often."""
    counterfactual: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0
    """For `train`: share of the questions, at most 0.5, that are counterfactuals: another question of the step
    with one number changed, and its answer worked out again. s_cf then compares the answers to both (under
    reward.formulas = cross_checked). Needs answers with GSM8K's annotated steps (<<3*4=12>>), as the built-in
    sources have them; where few questions have them, the share is less. What data.evaluation_source holds out is
    never made."""

    @field_validator("evaluation_source")
    @classmethod
    def _is_told_from_the_earlier_default(
        cls, given: str | None, info: ValidationInfo
    ) -> str | None:
        """Kept settings of earlier versions hold the bare name though nobody chose it; those of today never do."""
        if given != _DEFAULT_SOURCE:
            return given
        return None if is_built_in(info.data.get("source", given)) else f"{given}#held_out"

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
        """The source of the held-out questions; None where there are none of them."""
        if self.evaluation_source is None and is_built_in(self.source):
            return _DEFAULT_SOURCE
        return self.evaluation_source

    @property
    def shape(self) -> RecordShape:
        """The columns and the type of answer."""
        return RecordShape(
            question=self.question,
            answer=self.answer,
            choices=self.choices,
            answer_type=self.answer_type,
        )
