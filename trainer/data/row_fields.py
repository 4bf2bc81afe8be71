"""Finds the question and the answer in a row: in a column, in a table inside a column, or in the messages of a chat."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from inference_server.wire.json_and_toml import parse_json
from trainer.config.data import RecordShape

_DEFAULT = RecordShape()
_QUESTIONS = ("prompt", "messages")
"""TRL's and verl's columns for the question; read if data.question is the default and there is no such column."""
_ANSWERS = ("reward_model.ground_truth",)
"""The same for data.answer, from verl."""
_COMPLETION = "completion"
"""TRL's column for the answer. It is read only if the messages hold no answer, because beside messages with one it may
hold the text of some model."""
_SYSTEM_ROLES = ("system", "developer")
_SHOWN_COLUMNS = 20
_MISSING = object()


def named_fields(shape: RecordShape, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its question, answer and choices under the names that its shape gives them.

    Raises:
        ValueError: There is no such column, or it has messages with more than one question.
    """
    found = dict(row)
    question = _found(
        row, shape.question, _other_questions(shape), key=f"{shape.key_prefix}question"
    )
    said: Any = _MISSING
    if isinstance(question, list | tuple):
        question, said = _of_messages(question)
    found[shape.question] = question
    others: Sequence[str] = _ANSWERS if shape.answer == _DEFAULT.answer else ()
    if others and said is _MISSING:
        others = (*others, _COMPLETION)
    answer = _found(row, shape.answer, others, key=f"{shape.key_prefix}answer", otherwise=said)
    found[shape.answer] = _of_answer(answer) if isinstance(answer, list | tuple) else answer
    if shape.choices is not None:
        found[shape.choices] = _of_text(
            shape.choices, _found(row, shape.choices, (), key=f"{shape.key_prefix}choices")
        )
    return found


def system_message(shape: RecordShape, row: Mapping[str, Any]) -> str | None:
    """The system message of a row whose question `named_fields` takes from messages; None if there is none."""
    messages = _found(
        row, shape.question, _other_questions(shape), key=f"{shape.key_prefix}question"
    )
    first = messages[0] if isinstance(messages, list | tuple) and messages else None
    if not isinstance(first, Mapping) or first.get("role") not in _SYSTEM_ROLES:
        return None
    return str(first.get("content") or "").strip() or None


def _other_questions(shape: RecordShape) -> Sequence[str]:
    return _QUESTIONS if shape.question == _DEFAULT.question else ()


def require_known(shape: RecordShape, row: Mapping[str, Any]) -> None:
    """Refuse NaN and infinity as the question, answer or choices: tables of columns mark with them what is missing.

    Raises:
        ValueError: Names the column; or see `named_fields`.
    """
    found = named_fields(shape, row)
    for name in (shape.question, shape.answer, shape.choices):
        value = None if name is None else found[name]
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: missing ({'NaN' if math.isnan(value) else 'infinity'})")


def _found(
    row: Mapping[str, Any],
    name: str,
    others: Sequence[str],
    *,
    key: str,
    otherwise: Any = _MISSING,
) -> Any:
    for each in (name, *others):
        if (value := _value(row, each)) is not _MISSING:
            return value
    if otherwise is not _MISSING:
        return otherwise
    columns = ", ".join(map(str, list(row)[:_SHOWN_COLUMNS])) or "none"
    raise ValueError(
        f"no column {name!r}: set {key} to a column that there is (columns: {columns})"
    )


def _value(row: Mapping[str, Any], name: str) -> Any:
    """A column's value; ``a.b`` is the value of ``b`` in the table ``a``, unless a column has the whole name."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _of_text(column: str, choices: Any) -> Any:
    """Choices that are a text, as every value of a CSV file is: the list or table in JSON that it holds.

    Raises:
        ValueError: It holds neither.
    """
    if not isinstance(choices, str):
        return choices
    with suppress(ValueError, RecursionError):
        if isinstance(found := parse_json(choices), list | dict):
            return found
    raise ValueError(
        f"{column} is the text {choices[:40]!r}: give a list, or its JSON as a text such as "
        '["Paris", "Rome"], with double quotes'
    )


def _of_answer(messages: Sequence[Any]) -> Any:
    """The content of an answer that is a list of one message; other lists are left to the check of the row's type."""
    if len(messages) == 1 and isinstance(only := messages[0], Mapping):
        return only.get("content", messages)
    return messages


def _of_messages(messages: Sequence[Any]) -> tuple[str, Any]:
    """The question of a chat, and the answer that follows it, if there is one.

    The system message is left out: each arm has its own.
    """
    are_messages = all(isinstance(each, Mapping) and "content" in each for each in messages)
    roles = [each.get("role") for each in messages] if are_messages else []
    begin = 1 if roles and roles[0] in _SYSTEM_ROLES else 0
    if roles[begin:] not in (["user"], ["user", "assistant"]):
        shown = ", ".join(map(str, roles[:_SHOWN_COLUMNS])) or "no messages"
        raise ValueError(
            f"the question is a list ({shown}): it must be a text, or messages of which one is the user's; "
            "a system message may precede it, and an answer may follow it"
        )
    contents = [each["content"] for each in messages[begin:]]
    return contents[0], contents[1] if len(contents) > 1 else _MISSING
