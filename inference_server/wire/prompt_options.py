"""Types that requests, data and settings share: a prompt's format, its choices, and its stop strings."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo

from regime_w.answer_types.choice import LETTERS

PromptFormat = Literal["chat", "plain"]
"""``plain`` joins system prompt and question as `regime_w.build_prompt` does; ``chat`` renders both with the
model's chat template."""
PromptFormatChoice = Literal["auto", "chat", "plain"]
"""``auto`` is chat where the model's tokenizer has a chat template."""


def resolve_format(choice: PromptFormatChoice, *, has_chat_template: bool) -> PromptFormat:
    """The format that a choice stands for.

    Args:
        choice: The choice in a request or a setting.
        has_chat_template: Whether the model's tokenizer has one.
    """
    if choice == "auto":
        return "chat" if has_chat_template else "plain"
    return choice


StopStrings = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
    Field(max_length=16, fail_fast=True),
]
"""Texts that end a completion once one of them is generated; it stays in the completion."""

MAX_CHOICE_CHARS = 4096


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


NotBlank = Annotated[str, AfterValidator(_not_blank)]
"""A text with more in it than white space."""
QuestionText = Annotated[str, Field(min_length=1), AfterValidator(_not_blank)]
"""A question of a request; an empty one is refused with a message of its own."""


def _check_length(choice: str) -> str:
    if len(choice) > MAX_CHOICE_CHARS:
        raise ValueError(f"a choice has at most {MAX_CHOICE_CHARS} characters, not {len(choice)}")
    return choice


def _check_choices(choices: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    answer_type = info.data.get("answer_type", "choice")
    if choices and answer_type != "choice":
        raise ValueError(
            f"choices are for answer_type = choice, not {answer_type}: set that, or leave them out"
        )
    if len(choices) == 1:
        raise ValueError("one choice is not enough: give 2 or more")
    seen: dict[str, str] = {}
    for letter, text in zip(LETTERS, map(str.strip, choices), strict=False):
        if (first := seen.setdefault(text, letter)) != letter:
            raise ValueError(
                f"choices {first} and {letter} are equal: {text[:40]!r}; leave the question out, or one of them"
            )
    return choices


Choices = Annotated[
    tuple[Annotated[NotBlank, AfterValidator(_check_length)], ...],
    Field(max_length=len(LETTERS)),
    AfterValidator(_check_choices),
]
"""The texts of the choices, all different, or none. Its field must come after ``answer_type``, if there is one."""
