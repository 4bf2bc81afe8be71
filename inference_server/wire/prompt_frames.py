"""The fixed text around a system prompt and a question: of the plain prompt, or of a chat template.

A template is rendered once, with marks in place of the texts; what stands between the marks is the frame.
So nothing in a text can reach the template, and no template runs for each prompt. Loads neither torch nor
vllm: a tokenizer is passed in.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from regime_w import build_prompt
from regime_w.texts.completions import opened_thought

_TEMPLATE_ERRORS = (
    *(ValueError, TypeError, TemplateError),
    *(ArithmeticError, AttributeError, LookupError, RecursionError),
)
"""What a template raises if it does not take the messages or has a mistake."""

TEMPLATE_VARIABLES: Mapping[str, Any] = {"enable_thinking": False}
"""Variables for the rendering of every chat prompt; only templates of models that think unless told otherwise, such
as Qwen3's, read them."""

# White space around a mark: a template that strips its messages strips this too.
_MARGIN = "\t \t"


class NoChatTemplate(Exception):
    """The model's tokenizer has no chat template, or one that does not show the messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """The texts that are put into a frame."""

    system_prompt: str
    """Empty for no system message."""
    question: str


_TRIED = Prompt(system_prompt="", question="What is 2 + 2?")

SlotName = Literal["system_prompt", "question", "both"]
"""``both`` is the system prompt, an empty line and the question, in the user's turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """The place of a text in a frame."""

    name: SlotName
    strips_left: bool = False
    """Whether the template strips white space before the text."""
    strips_right: bool = False
    """Whether it strips white space after the text."""

    def text(self, prompt: Prompt) -> str:
        """The text that stands in this place."""
        if self.name == "system_prompt":
            text = prompt.system_prompt
        elif self.name == "question":
            text = prompt.question
        else:
            text = f"{prompt.system_prompt}\n\n{prompt.question}"
        text = text.lstrip() if self.strips_left else text
        return text.rstrip() if self.strips_right else text


Frame = tuple[str | Slot, ...]
"""Fixed text and slots, in their order."""


def written(frame: Frame, prompt: Prompt) -> str:
    """A frame with texts in its slots."""
    return "".join(part if isinstance(part, str) else part.text(prompt) for part in frame)


def plain_frame() -> Frame:
    """The frame of `regime_w.build_prompt`."""
    return _frame(lambda mark: build_prompt(mark["system_prompt"], mark["question"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFrames:
    """A chat template as frames; each ends where the model's answer begins."""

    with_system: Frame
    """A system message and the user's. A template that refuses or drops system messages gets the system
    prompt at the start of the user's turn, before an empty line."""
    without_system: Frame
    """The user's message alone; a template may add a system message of its own."""
    after_answer: str
    """What the template writes after an answer, such as ``<|im_end|>`` and a line break."""

    @property
    def opened_thought(self) -> str:
        """``<think>`` with the white space after it, if the template itself begins the thought; else empty."""
        fixed = self.without_system[-1]
        return opened_thought(fixed) if isinstance(fixed, str) else ""


def chat_frames(tokenizer: Any) -> ChatFrames:
    """The frames of a tokenizer's chat template, with thinking turned off if the template allows it.

    Args:
        tokenizer: A tokenizer of Transformers.

    Raises:
        NoChatTemplate: It has no template, or none that shows a user's message unchanged.
    """

    def render(*messages: tuple[str, str], prompts: bool = True) -> str:
        turns = [{"role": role, "content": content} for role, content in messages]
        rendered: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=prompts, **TEMPLATE_VARIABLES
        )
        return rendered

    try:
        alone = _frame(lambda mark: render(("user", mark["question"])))
        if not _shows(alone, "question"):
            raise NoChatTemplate("it does not show the user's message")
        if written(alone, _TRIED) != render(("user", _TRIED.question)):
            raise NoChatTemplate("it changes the text of the user's message")
        return ChatFrames(
            with_system=_frame_with_system(render),
            without_system=alone,
            after_answer=_after_answer(render),
        )
    except _TEMPLATE_ERRORS as error:
        raise NoChatTemplate(str(error).partition("\n")[0]) from error


def unusable_template(tokenizer: Any, error: NoChatTemplate) -> str | None:
    """A warning about a chat template that `chat_frames` cannot use; None if there is no template."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    return f"warning: prompts are plain, since the model's chat template cannot be used: {error}"


def _frame_with_system(render: Callable[..., str]) -> Frame:
    try:
        frame = _frame(
            lambda mark: render(("system", mark["system_prompt"]), ("user", mark["question"]))
        )
        if _shows(frame, "system_prompt") and _shows(frame, "question"):
            return frame
    except _TEMPLATE_ERRORS:
        pass  # such as Gemma's "System role not supported"
    return _frame(lambda mark: render(("user", mark["both"])))


def _after_answer(render: Callable[..., str]) -> str:
    """What follows an answer; empty if the template refuses an answer or does not show it."""
    mark = _mark()
    try:
        rendered = render(("user", "?"), ("assistant", mark), prompts=False)
    except _TEMPLATE_ERRORS:
        return ""
    return rendered.rpartition(mark)[2] if mark in rendered else ""


def _frame(render: Callable[[Mapping[SlotName, str]], str]) -> Frame:
    """The frame that ``render`` produces with marks in place of the texts."""
    names: tuple[SlotName, ...] = ("system_prompt", "question", "both")
    marks = {name: _mark() for name in names}
    rendered = render({name: f"{_MARGIN}{mark}{_MARGIN}" for name, mark in marks.items()})
    pieces = re.split(f"({'|'.join(marks.values())})", rendered)
    by_mark = {mark: name for name, mark in marks.items()}
    frame: list[str | Slot] = []
    for index, piece in enumerate(pieces):
        if piece in by_mark:
            frame.append(
                Slot(
                    name=by_mark[piece],
                    strips_left=not pieces[index - 1].endswith(_MARGIN),
                    strips_right=not pieces[index + 1].startswith(_MARGIN),
                )
            )
            continue
        # A margin that was not stripped stands between a slot and the fixed text.
        fixed = piece.removeprefix(_MARGIN) if index else piece
        frame.append(fixed.removesuffix(_MARGIN) if index < len(pieces) - 1 else fixed)
    return tuple(frame)


def _shows(frame: Sequence[str | Slot], name: SlotName) -> bool:
    return any(isinstance(part, Slot) and part.name == name for part in frame)


def _mark() -> str:
    """Letters and digits that are in no text and no template."""
    return f"m{secrets.token_hex(16)}"
