"""The one way in which a system prompt and a question become token ids, for server and trainer.

Plain prompts are `regime_w.build_prompt`'s text; chat prompts are the model's own template. In a user's
text, ``<|im_end|>`` and the like are plain characters, never control tokens. Loads neither torch nor vllm: a
tokenizer is passed in.
"""

from collections.abc import Sequence
from typing import Any

from inference_server.wire.neutral_tokenizer import NeutralTokenizer
from inference_server.wire.prompt_frames import (
    ChatFrames,
    Frame,
    NoChatTemplate,
    Prompt,
    chat_frames,
    plain_frame,
    unusable_template,
    written,
)
from inference_server.wire.prompt_options import (
    PromptFormat,
    PromptFormatChoice,
    resolve_format,
)
from regime_w.texts.completions import THOUGHT_ENDS, THOUGHT_STARTS


class PromptRenderer:
    """Renders prompts, and the answers under them, with one tokenizer; threads may share it."""

    def __init__(self, tokenizer: Any) -> None:
        """Takes a fast tokenizer of Transformers, which is only read.

        Raises:
            ValueError: It is not a fast one.
        """
        plain = plain_frame()
        frames: list[Frame] = [plain]
        after_answer = ""
        self.opened_thought = ""
        """The end of every chat prompt if the template begins the answer's thought; see `ChatFrames`."""
        chat: ChatFrames | None = None
        self.why_no_chat = ""
        """Why there are no chat prompts; empty if there are."""
        self.unusable_template: str | None = None
        """A warning that says why there are no chat prompts although there is a template."""
        try:
            chat = chat_frames(tokenizer)
            frames += [chat.with_system, chat.without_system]
            after_answer = chat.after_answer
            # If texts do not show where a thought ends, an answer cannot be told from its thought.
            if not _is_hidden(tokenizer, THOUGHT_ENDS):
                self.opened_thought = chat.opened_thought
        except NoChatTemplate as error:
            self.why_no_chat = str(error)
            self.unusable_template = unusable_template(tokenizer, error)
        fixed = [part for frame in frames for part in frame if isinstance(part, str)]
        # A question must not end a thought that the template has begun.
        thought_ends = [THOUGHT_ENDS] if self.opened_thought else []
        self._neutral = NeutralTokenizer(tokenizer, [*fixed, after_answer, *thought_ends])
        self._plain = self._named(plain)
        self._chat: tuple[Frame, Frame] | None = None
        if chat is not None:
            self._chat = self._named(chat.with_system), self._named(chat.without_system)
        self._before_plain = _added_before(tokenizer)
        self._eos_token_id: int | None = tokenizer.eos_token_id
        self._end_of_turn_id = self._neutral.leading_control(after_answer)

    @property
    def has_chat_template(self) -> bool:
        """Whether chat prompts can be rendered."""
        return self._chat is not None

    def resolve(self, choice: PromptFormatChoice) -> PromptFormat:
        """The format that a choice stands for; ``auto`` is chat if there is a template."""
        return resolve_format(choice, has_chat_template=self.has_chat_template)

    def prompts(self, prompts: Sequence[Prompt], prompt_format: PromptFormat) -> list[list[int]]:
        """Token ids of each prompt, up to the start of the answer.

        Raises:
            NoChatTemplate: A chat prompt is asked for, and the model has no template for one.
        """
        return [
            self._encode(self._text(prompt, prompt_format), prompt_format) for prompt in prompts
        ]

    def demonstration(
        self, prompt: Prompt, answer: str, prompt_format: PromptFormat
    ) -> tuple[list[int], list[int]]:
        """Token ids of a prompt, and of an answer to it without the token that ends it.

        The prompt's ids are those of `prompts`. The answer's ids continue them as in one text, unless the
        answer's beginning would change the prompt's last tokens; then they are those of the answer alone.

        If the prompt begins a thought, an answer without a thought first ends it, and an answer that begins
        with ``<think>``, as the server's texts do, goes on after it.

        Raises:
            NoChatTemplate: As in `prompts`.
        """
        text = self._text(prompt, prompt_format)
        if prompt_format == "chat" and self.opened_thought:
            answer = self._after_opened_thought(answer)
        asked, whole = (self._encode(t, prompt_format) for t in (text, text + answer))
        if whole[: len(asked)] == asked:
            return asked, whole[len(asked) :]
        return asked, self._neutral.encode(answer)

    def end_token_id(self, prompt_format: PromptFormat) -> int | None:
        """The token that ends an answer: the template's end of a turn, else the tokenizer's EOS."""
        if prompt_format == "chat" and self._end_of_turn_id is not None:
            return self._end_of_turn_id
        return self._eos_token_id

    def _after_opened_thought(self, answer: str) -> str:
        start = next(
            (start for start in (self.opened_thought, THOUGHT_STARTS) if answer.startswith(start)),
            "",
        )
        thought, end, rest = answer.removeprefix(start).partition(THOUGHT_ENDS)
        if not start and not end:
            thought, end, rest = "\n", THOUGHT_ENDS, f"\n\n{answer}"
        return thought + self._neutral.with_secret_names(end) + rest

    def _encode(self, text: str, prompt_format: PromptFormat) -> list[int]:
        # A template writes its BOS itself.
        before = self._before_plain if prompt_format == "plain" else []
        return [*before, *self._neutral.encode(text)]

    def _text(self, prompt: Prompt, prompt_format: PromptFormat) -> str:
        frame = self._plain
        if prompt_format == "chat":
            if self._chat is None:
                raise NoChatTemplate(self.why_no_chat)
            frame = self._chat[0] if prompt.system_prompt else self._chat[1]
        return written(frame, prompt)

    def _named(self, frame: Frame) -> Frame:
        return tuple(
            self._neutral.with_secret_names(part) if isinstance(part, str) else part
            for part in frame
        )


def _is_hidden(tokenizer: Any, token: str) -> bool:
    """Whether the text of sampled tokens leaves a token out."""
    added = tokenizer.added_tokens_decoder.values()
    return any(each.special and each.content == token for each in added)


def _added_before(tokenizer: Any) -> list[int]:
    """What a tokenizer puts before a text by itself, such as BOS."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = (i for i in range(len(whole)) if whole[i : i + len(alone)] == alone)
    return list(whole[: next(starts, 0)])
