"""What one request's sampling may cost: its grammar and its forbidden words before its first token, its logprobs after it.

A grammar is compiled in the engine's process, where one number in 150 bytes of JSON (``minItems`` of 10^9) takes
all of the machine's memory; forbidden words are tokenized on the event loop. vLLM bounds neither.
"""

import re
from collections.abc import Iterator
from dataclasses import fields
from math import prod
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import RequestOutputKind, SamplingParams

from inference_server.wire.json_and_toml import JsonFlaw, parse_json

MAX_REPEATS = 65_536
"""Most repetitions that a grammar may ask for; nested ones are multiplied."""
MAX_WORDS_CHARS = 65_536
"""Most characters of all forbidden words."""
_LONG_COMPLETION_TOKENS = 4096
"""What a longer ``max_tokens`` counts as: without one, vLLM's chat takes all that is left of the context."""

_BOUNDS = tuple(
    f"{side}{what}"
    for side in ("min", "max")
    for what in ("Items", "Length", "Properties", "Contains")
)
# ``{3}``, ``{3,}`` or ``{3,5}``, and the character before it: repetitions of a closed group may contain others.
_REPEATS = re.compile(r"(.?)\{(\d+)\s*(?:,\s*(\d*)\s*)?\}", re.DOTALL)


def check_sampling(params: Any) -> None:
    """Refuses what would cost too much before the first token, or change what other requests get.

    Raises:
        VLLMValidationError: The forbidden words are too long, a grammar repeats too much, or chosen tokens' logprobs
            are asked for.
    """
    if not isinstance(params, SamplingParams):
        return
    if params.logprob_token_ids:
        # vllm/v1/sample/sampler.py of 0.32 prefers them to the logprobs of the whole batch.
        raise VLLMValidationError(
            "logprob_token_ids: not served, since vLLM would replace the top logprobs of every other request by theirs; "
            "use logprobs"
        )
    if sum(map(len, params.bad_words or ())) > MAX_WORDS_CHARS:
        raise VLLMValidationError(f"bad_words: at most {MAX_WORDS_CHARS} characters in all")
    grammar = params.structured_outputs
    if grammar is None:
        return
    for field in fields(grammar):
        value = getattr(grammar, field.name)
        if field.name in ("json", "structural_tag") and isinstance(value, str):
            value = _parsed(value)
        if any(repeats > MAX_REPEATS for repeats in _repeats(value, 1)):
            raise VLLMValidationError(
                f"structured_outputs.{field.name}: repeats more than {MAX_REPEATS} times; use smaller "
                "bounds"
            )


def num_logprobs(params: Any, prompt: Any, model_config: Any) -> int:
    """How many logprobs the answer may have at a time, if no completion is very long.

    Those of a stream's completion leave token by token, and those of the arms are numbers in a list.

    Args:
        params: vLLM's parameters of the sampling.
        prompt: A rendered prompt.
        model_config: vLLM's, of the model.
    """
    if not isinstance(params, SamplingParams) or params.flat_logprobs:
        return 0
    per_prompt = per_completion = 0
    if params.prompt_logprobs is not None:
        per_prompt = _num_likeliest(params.prompt_logprobs, model_config) + 1
    if params.logprobs is not None and params.output_kind is not RequestOutputKind.DELTA:
        per_completion = _num_likeliest(params.logprobs, model_config) + 1
    prompt_tokens = len(prompt.get("prompt_token_ids") or ())
    completion_tokens = min(params.max_tokens or 0, _LONG_COMPLETION_TOKENS)
    most: int = params.n * (prompt_tokens * per_prompt + completion_tokens * per_completion)
    return most


def _num_likeliest(asked: int, model_config: Any) -> int:
    every_token = -1
    num_tokens: int = model_config.get_vocab_size() if asked == every_token else asked
    return num_tokens


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except JsonFlaw as error:
        raise VLLMValidationError(f"structured_outputs: {error}") from error
    except (ValueError, RecursionError):
        return text


def _repeats(value: Any, times: int) -> Iterator[int]:
    """The most often that each part of a schema or an expression is repeated."""
    unseen = [(value, times)]
    while unseen:
        part, around = unseen.pop()
        if isinstance(part, str):
            yield around * _repeats_of_text(part)
        elif isinstance(part, list | tuple):
            unseen.extend((item, around) for item in part)
        elif isinstance(part, dict):
            bounds = [part.get(name) for name in _BOUNDS]
            numbers = [int(n) for n in bounds if isinstance(n, int | float) and 1 < n < 1e300]
            inside = around * max(numbers, default=1)
            yield inside
            unseen.extend((item, inside) for item in part.values())


def _repeats_of_text(text: str) -> int:
    found = [(before, int(most or least)) for before, least, most in _REPEATS.findall(text)]
    group_repeats = prod(max(1, n) for before, n in found if before == ")")
    return group_repeats * max(1, sum(n for before, n in found if before != ")"))
