"""Where a row has its question and its answer: by name, in tables of its own, and in the messages of a chat."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config.data import RecordShape

_DEFAULT = RecordShape()
_QUESTIONS = ("prompt", "messages")
"""Columns that are read where none is called as data.question is by default: TRL's and verl's."""
_ANSWERS = ("reward_model.ground_truth",)
"""The same for data.answer: verl's."""
_COMPLETION = "completion"
"""TRL's, where the messages hold no answer: a data set may have what some model said beside them."""
_SHOWN_COLUMNS = 20
_MISSING = object()


def placed(shape: RecordShape, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its question, answer and choices under the names that its shape gives them.

    Raises:
        ValueError: There is no such column, or it has messages with more than one question.
    """
    found = dict(row)
    others: Sequence[str] = _QUESTIONS if shape.question == _DEFAULT.question else ()
    question = _found(row, shape.question, others, setting="question")
    said: Any = _MISSING
    if isinstance(question, list | tuple):
        question, said = _of_messages(question)
    found[shape.question] = question
    others = _ANSWERS if shape.answer == _DEFAULT.answer else ()
    if others and said is _MISSING:
        others = (*others, _COMPLETION)
    answer = _found(row, shape.answer, others, setting="answer", otherwise=said)
    found[shape.answer] = _of_answer(answer) if isinstance(answer, list | tuple) else answer
    if shape.choices is not None:
        found[shape.choices] = _found(row, shape.choices, (), setting="choices")
    return found


def _found(
    row: Mapping[str, Any],
    name: str,
    others: Sequence[str],
    *,
    setting: str,
    otherwise: Any = _MISSING,
) -> Any:
    for each in (name, *others):
        if (value := _value(row, each)) is not _MISSING:
            return value
    if otherwise is not _MISSING:
        return otherwise
    columns = ", ".join(map(str, list(row)[:_SHOWN_COLUMNS])) or "none"
    raise ValueError(
        f"no column {name!r}: name the one that there is by data.{setting} (columns: {columns})"
    )


def _value(row: Mapping[str, Any], name: str) -> Any:
    """A column's value; of ``a.b`` that of ``b`` in the table ``a``, where no column has the whole name."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _of_answer(messages: Sequence[Any]) -> Any:
    """The content of the one message of an answer; other lists are left to the row's type."""
    if len(messages) == 1 and isinstance(only := messages[0], Mapping):
        return only.get("content", messages)
    return messages


def _of_messages(messages: Sequence[Any]) -> tuple[str, Any]:
    """The question of a chat, and the answer behind it, if there is one.

    The system message is left out: each arm has its own.
    """
    are_messages = all(isinstance(each, Mapping) and "content" in each for each in messages)
    roles = [each.get("role") for each in messages] if are_messages else []
    begin = 1 if roles[:1] in (["system"], ["developer"]) else 0
    if roles[begin:] not in (["user"], ["user", "assistant"]):
        shown = ", ".join(map(str, roles[:_SHOWN_COLUMNS])) or "no messages"
        raise ValueError(
            f"the question is a list ({shown}): it must be a text, or messages of which one is the user's, "
            "behind a system message or none and before an answer or none"
        )
    contents = [each["content"] for each in messages[begin:]]
    return contents[0], contents[1] if len(contents) > 1 else _MISSING
