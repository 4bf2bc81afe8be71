"""The columns of a record: question, gold answer and choices, by the names that a source gives them."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache, partial
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from inference_server.wire.prompt_options import Choices, NotBlank
from regime_w import AnswerType, answer_type_of
from regime_w.algebra.math_process import LibraryMissing
from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.choice import Choice, letter_of
from regime_w.answer_types.number import NUMBER
from trainer.config.data import RecordShape
from trainer.data.placed import placed
from trainer.errors import DataError


def _as_letter(answer: object) -> object:
    """The letter of an index, as which many data sets give the right choice."""
    if not isinstance(answer, int) or isinstance(answer, bool):
        return answer
    letter = letter_of(answer)
    if letter is None:
        raise ValueError(f"{answer} is no index of a choice, which begin at 0")
    return letter


def _number_as_text(answer: object) -> object:
    is_number = isinstance(answer, int | float | Decimal) and not isinstance(answer, bool)
    return str(answer) if is_number else answer


def _as_list(choices: object) -> object:
    """The texts of choices that come as columns of their own, {"text": [...], "label": [...]}."""
    return choices.get("text", choices) if isinstance(choices, Mapping) else choices


class Row(BaseModel):
    """A record as a source has it; other columns are kept."""

    model_config = ConfigDict(extra="allow")

    question: NotBlank
    answer: NotBlank

    @property
    def choices(self) -> tuple[str, ...]:
        """The choices' texts; empty where no column is named for them."""
        return ()


class _RowWithChoices(Row):
    choice_texts: Choices

    @property
    def choices(self) -> tuple[str, ...]:
        return self.choice_texts


@cache
def row_type(shape: RecordShape) -> type[Row]:
    """The rows of a source, whose errors name its own columns."""
    read = _as_letter if shape.answer_type == "choice" else _number_as_text
    answer = Annotated[NotBlank, BeforeValidator(read)]
    fields: dict[str, Any] = {
        "question": (NotBlank, Field(alias=shape.question)),
        "answer": (answer, Field(alias=shape.answer)),
    }
    validators: dict[str, Any] = {"placed": model_validator(mode="before")(partial(_placed, shape))}
    if shape.choices is None:
        return create_model("Row", __base__=Row, __validators__=validators, **fields)
    fields["choice_texts"] = (
        Annotated[Choices, BeforeValidator(_as_list), Field(min_length=2)],
        Field(alias=shape.choices),
    )
    return create_model("Row", __base__=_RowWithChoices, __validators__=validators, **fields)


def _placed(shape: RecordShape, row: Any) -> Any:
    """A row with what its shape names; what is no table is left to the type."""
    if not isinstance(row, Mapping):
        return row
    found = placed(shape, row)
    return found if shape.choices is None else _by_position(shape, shape.choices, found)


def _by_position(shape: RecordShape, column: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row whose choices have labels of their own, {"text": [...], "label": [...]}: its answer is one of them."""
    choices = row[column]
    labels = choices.get("label") if isinstance(choices, Mapping) else None
    if not isinstance(labels, list):
        return _unambiguous(shape, column, row)
    known, answer = [str(label).strip() for label in labels], str(row[shape.answer]).strip()
    if known.count(answer) != 1:
        raise ValueError(f"{shape.answer} {answer[:40]!r} is not one of the labels of {column}")
    return {**row, shape.answer: letter_of(known.index(answer))}


def _unambiguous(shape: RecordShape, column: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row whose answer is not a letter that another choice has as its text."""
    answer: Any = row[shape.answer]
    choices: Any = _as_list(row[column]) if isinstance(answer, str) else None
    are_texts = isinstance(choices, list | tuple) and all(isinstance(text, str) for text in choices)
    if are_texts and Choice(tuple(choices)).is_ambiguous(answer):
        raise ValueError(
            f"{shape.answer} {answer[:40]!r} is the letter of one choice and the text of another: give the right "
            "one's index from 0, as a number"
        )
    return row


def usable_type(name: AnswerTypeName, choices: Sequence[str] = ()) -> AnswerType:
    """The type of a question's answer; see `answer_type_of`.

    Raises:
        DataError: It needs a library that is not installed; says which extra has it.
    """
    try:
        return answer_type_of(name, choices)
    except LibraryMissing as error:
        raise DataError(str(error)) from None


def check_gold(gold: str, where: str, answer_type: AnswerType = NUMBER) -> None:
    """Refuse a gold answer that its type cannot read.

    Raises:
        DataError: It cannot. The message begins with ``where``.
    """
    if answer_type.read_gold(gold) is not None:
        return
    if "####" in gold:
        raise DataError(f"{where}: no {answer_type.name} after '####'")
    raise DataError(f"{where}: {gold.strip()[:40]!r} is not {answer_type.expected}")
