"""Renderers of a base model's prompts on this machine; the rendering itself is in `inference_server.wire.prompts`."""

from collections.abc import Callable, Iterable
from typing import Any

from inference_server.wire.prompt_frames import NoChatTemplate, chat_frames, unusable_template
from inference_server.wire.prompt_options import PromptFormat, PromptFormatChoice
from inference_server.wire.prompts import PromptRenderer
from regime_w import build_prompt
from trainer.config.safe_text import safe_line, shortened
from trainer.errors import UsageError
from trainer.model.base_files import load_tokenizer

_TOKENS_AT_THE_ENDS = 8
"""More than the special tokens that any tokenizer adds to a text."""
_TOKENS_OF_A_TEMPLATE = 512
"""More than these and the text that a chat template adds."""


def load_renderer(base_model: str) -> PromptRenderer:
    """A renderer of prompts with a base model's tokenizer.

    Raises:
        UsageError: The model has no tokenizer that can render prompts; see `load_tokenizer`.
    """
    return renderer_of(load_tokenizer(base_model), base_model)


def renderer_of(tokenizer: Any, base_model: str) -> PromptRenderer:
    """A renderer of prompts with the given tokenizer of a base model.

    Raises:
        UsageError: The tokenizer cannot render prompts.
    """
    try:
        return PromptRenderer(tokenizer)
    except ValueError as error:
        raise UsageError(f"base model {base_model}: {error}") from None


def format_problem(renderer: PromptRenderer, choice: PromptFormatChoice) -> str | None:
    """Why a base model's prompts cannot have a format, and how to fix it; None if they can."""
    if choice != "chat" or renderer.has_chat_template:
        return None
    if renderer.unusable_template is None:
        return "chat, but the tokenizer has no chat template; set it to plain, or use a chat model"
    reason = shortened(safe_line(renderer.why_no_chat))
    return f"chat, but the model's chat template cannot be used: {reason}; set it to plain"


def prompt_format_of(base_model: str, say: Callable[[str], None]) -> PromptFormat:
    """The format that ``auto`` means for a base model; ``say`` gets a line if its chat template cannot be used."""
    tokenizer = load_tokenizer(base_model)
    try:
        chat_frames(tokenizer)
    except NoChatTemplate as error:
        if line := unusable_template(tokenizer, error):
            say(line)
        return "plain"
    return "chat"


def most_prompt_tokens(
    system_prompts: Iterable[str], question: str, prompt_format: PromptFormatChoice
) -> int:
    """An upper bound on the tokens of a question's prompt under any of some system prompts, without a tokenizer.

    No tokenizer makes more tokens than a text has bytes, except for those that it adds itself.
    """
    longest = max((len(prompt.encode()) for prompt in system_prompts), default=0)
    further = _TOKENS_AT_THE_ENDS if prompt_format == "plain" else _TOKENS_OF_A_TEMPLATE
    return longest + len(build_prompt("", question).encode()) + further
