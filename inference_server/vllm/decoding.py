"""The text of sampled tokens, as vLLM itself would return it."""

from collections.abc import Sequence
from typing import Any

import tokenizers


def decode(tokenizer: Any, prompt_token_ids: Sequence[int], token_ids: Sequence[int]) -> str:
    """The text of a completion, as vLLM's own routes return it.

    A token's text depends on the tokens before it (a leading space, a character split over tokens), so
    the stream starts with the prompt.
    """
    stream = tokenizers.decoders.DecodeStream(ids=list(prompt_token_ids), skip_special_tokens=True)
    backend = tokenizer._tokenizer
    try:
        return "".join(stream.step(backend, token_id) or "" for token_id in token_ids)
    # The stream raises bare Exceptions on bytes that are not UTF-8 and ids outside the vocabulary.
    except Exception:
        text: str = tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text
