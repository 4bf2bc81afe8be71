"""How a prompt is rendered and what ends its completion, as requests and settings say it."""

from typing import Annotated, Literal

from pydantic import Field

PromptFormat = Literal["chat", "plain"]
"""``plain`` joins system prompt and question as `regime_w.build_prompt` does; ``chat`` renders both with the
model's chat template."""
PromptFormatChoice = Literal["auto", "chat", "plain"]
"""``auto`` is chat where the model's tokenizer has a chat template."""


def resolve_format(choice: PromptFormatChoice, *, has_chat_template: bool | None) -> PromptFormat:
    """The format that a choice stands for.

    Args:
        choice: Of a request or a setting.
        has_chat_template: Whether the model's tokenizer has one; None from a server that does not say.
    """
    if choice == "auto":
        return "chat" if has_chat_template else "plain"
    return choice


StopStrings = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
    Field(max_length=16, fail_fast=True),
]
"""Texts that end a completion once one of them is generated; it stays in the completion."""
