"""The columns of a record: question, gold answer and choices, by the names that a source gives them."""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache, partial
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model, model_validator

from inference_server.wire.prompt_options import Choices, NotBlank
from regime_w import AnswerType, answer_type_of
from regime_w.algebra.math_process import LibraryMissing
from regime_w.answer_types.answer_type import AnswerTypeName
from regime_w.answer_types.choice import LETTERS, Choice, letter_of
from trainer.config.data import RecordShape
from trainer.data.row_fields import named_fields
from trainer.errors import DataError

_JSON_NAMES = {"bool": "true or false", "list": "a list", "dict": "a table"}


def _as_letter(answer: object) -> object:
    """The letter for an index, which many data sets give as the right choice; 1.0 is an index too."""
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if not _is_number(answer):
        return _answer_as_text(answer)
    letter = letter_of(answer) if isinstance(answer, int) else None
    if letter is None:
        raise ValueError(f"{answer} is not the index of a choice; indices begin at 0")
    return letter


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _number_as_text(answer: object) -> object:
    return str(answer) if _is_number(answer) else answer


def _answer_as_text(answer: object) -> object:
    if not isinstance(answer, str) and not _is_number(answer):
        kind = "null" if answer is None else type(answer).__name__
        raise ValueError(f"must be a text or a number, not {_JSON_NAMES.get(kind, kind)}")
    return _number_as_text(answer)


def _as_list(choices: object) -> object:
    """The choices as texts; the source may give numbers, texts with their letters before them, or a table."""
    listed = _listed(choices)
    if not isinstance(listed, list | tuple):
        return listed
    return _without_letters([_number_as_text(choice) for choice in listed])


def _listed(choices: object) -> object:
    """The choices of {"text": [...], "label": [...]}, or of {"A": ..., "B": ...} in the order of the letters.

    Raises:
        ValueError: A table has other keys.
    """
    if not isinstance(choices, Mapping) or "text" in choices:
        return choices["text"] if isinstance(choices, Mapping) else choices
    # If rows have different numbers of choices, a column of tables has null for the missing ones.
    named = {str(name).strip().upper(): text for name, text in choices.items() if text is not None}
    if sorted(named) != [*LETTERS[: len(named)]]:
        raise ValueError(f"a table of choices has the names A, B, and so on, not {list(choices)}")
    return [named[letter] for letter in sorted(named)]


def _without_letters(choices: list[Any]) -> list[Any]:
    """Choices such as "A)21" without their letters, if all have them; `with_choices` puts them there again."""
    found = [
        re.fullmatch(rf"\s*\(?{letter}[).:]\s*(.*\S.*)", choice, re.DOTALL)
        for letter, choice in zip(LETTERS, choices, strict=False)
        if isinstance(choice, str)
    ]
    texts = [match[1] for match in found if match]
    return texts if len(texts) == len(choices) else choices


class Row(BaseModel):
    """A record as a source has it; other columns are kept."""

    model_config = ConfigDict(extra="allow")

    question: NotBlank
    answer: NotBlank

    @property
    def choices(self) -> tuple[str, ...]:
        """The choices' texts; empty if no column is named for them."""
        return ()


class _RowWithChoices(Row):
    choice_texts: Choices

    @property
    def choices(self) -> tuple[str, ...]:
        return self.choice_texts


@cache
def row_type(shape: RecordShape) -> type[Row]:
    """The type of a source's rows; its errors name the source's own columns."""
    read = _as_letter if shape.answer_type == "choice" else _answer_as_text
    answer = Annotated[NotBlank, BeforeValidator(read)]
    fields: dict[str, Any] = {
        "question": (NotBlank, Field(alias=shape.question)),
        "answer": (answer, Field(alias=shape.answer)),
    }
    validators: dict[str, Any] = {"named": model_validator(mode="before")(partial(_named, shape))}
    if shape.choices is None:
        return create_model("Row", __base__=Row, __validators__=validators, **fields)
    fields["choice_texts"] = (
        Annotated[Choices, BeforeValidator(_as_list), Field(min_length=2)],
        Field(alias=shape.choices),
    )
    return create_model("Row", __base__=_RowWithChoices, __validators__=validators, **fields)


def _named(shape: RecordShape, row: Any) -> Any:
    """A row with the columns that its shape names; a row that is not a table is left to the type's own check."""
    if not isinstance(row, Mapping):
        return row
    found = named_fields(shape, row)
    return found if shape.choices is None else _by_position(shape, shape.choices, found)


def _by_position(shape: RecordShape, column: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row, with the letter of its answer if choices have their own labels: {"text": [...], "label": [...]}.

    Raises:
        ValueError: The answer is not one of the labels, or `_unambiguous` refuses it.
    """
    choices = row[column]
    labels = choices.get("label") if isinstance(choices, Mapping) else None
    if not isinstance(labels, list):
        return _unambiguous(shape, column, row)
    known, answer = [str(label).strip() for label in labels], str(row[shape.answer]).strip()
    if known.count(answer) != 1:
        raise ValueError(f"{shape.answer} {answer[:40]!r} is not one of the labels of {column}")
    return {**row, shape.answer: letter_of(known.index(answer))}


def _unambiguous(shape: RecordShape, column: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row, with the letter of its answer if that is a number and equal to a choice.

    Raises:
        ValueError: The answer is the letter or the index of one choice and equal to another, or is no choice's index.
    """
    answer, choices = row[shape.answer], _listed(row[column])
    if not isinstance(choices, list | tuple):
        return row
    if _is_number(answer):
        same = [i for i, choice in enumerate(choices) if _is_number(choice) and choice == answer]
        if same and answer in range(len(choices)) and answer not in same:
            raise ValueError(
                f"{shape.answer} {answer} is the index of one choice and equal to another choice: give the right "
                "one's letter"
            )
        is_index = math.isfinite(answer) and answer == int(answer)
        if not same and is_index and answer not in range(len(choices)):
            raise ValueError(
                f"{shape.answer} {answer} is not an index of the {len(choices)} choices; indices begin at 0"
            )
        return {**row, shape.answer: letter_of(same[0])} if same else row
    texts = _without_letters([_number_as_text(choice) for choice in choices])
    are_texts = isinstance(answer, str) and all(isinstance(text, str) for text in texts)
    if are_texts and Choice(tuple(texts)).is_ambiguous(answer):
        raise ValueError(
            f"{shape.answer} {answer[:40]!r} is the letter of one choice and the text of another: give the right "
            "one's index from 0, as a number"
        )
    return row


def usable_type(name: AnswerTypeName, choices: Sequence[str] = ()) -> AnswerType:
    """The type of a question's answer; see `answer_type_of`.

    Raises:
        DataError: It needs a library that is not installed; names the extra that installs it.
    """
    try:
        return answer_type_of(name, choices)
    except LibraryMissing as error:
        raise DataError(str(error)) from None


def check_gold(gold: str, where: str, answer_type: AnswerType) -> None:
    """Refuse a gold answer that its type cannot read.

    Raises:
        DataError: The type cannot read it. The message begins with ``where``.
    """
    if answer_type.read_gold(gold) is not None:
        return
    if "####" in gold:
        raise DataError(f"{where}: no {answer_type.name} after '####'")
    raise DataError(f"{where}: {gold.strip()[:40]!r} is not {answer_type.expected}")
