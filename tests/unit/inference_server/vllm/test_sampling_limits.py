"""What the sampling of a request may cost."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm.sampling_params")

from vllm.exceptions import VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from inference_server.vllm.sampling_limits import check_sampling, num_logprobs

HUGE = 10**9


def nested(depth: int, most: int) -> dict[str, Any]:
    """Arrays of arrays."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "maxItems": most, "items": schema}
    return schema


@pytest.mark.parametrize(
    "grammar",
    [
        {"json": {"type": "array", "minItems": HUGE}},
        {"json": json.dumps({"type": "array", "minItems": HUGE})},
        {"json": {"type": "string", "maxLength": HUGE}},
        {"json": {"type": "array", "minItems": float(HUGE)}},
        {"json": {"properties": {"a": {"anyOf": [{"type": "object", "minProperties": HUGE}]}}}},
        {"json": {"$defs": {"a": {"type": "string", "pattern": f"^a{{{HUGE}}}$"}}}},
        {"json": nested(5, 100)},
        {"regex": f"a{{{HUGE}}}"},
        {"regex": f"a{{2,{HUGE}}}"},
        {"regex": f"[ab]{{{HUGE},}}"},
        {"regex": "((a{100}){100}){100}"},
        {"grammar": f'root ::= ("a" | "b"){{{HUGE}}}'},
        {
            "structural_tag": json.dumps(
                {"type": "structural_tag", "format": {"json_schema": {"maxLength": HUGE}}}
            )
        },
    ],
    ids=str,
)
def test_grammars_that_repeat_too_much_are_refused(grammar: dict[str, Any]) -> None:
    params = SamplingParams(structured_outputs=StructuredOutputsParams(**grammar))
    with pytest.raises(VLLMValidationError, match="repeats more than 65536 times"):
        check_sampling(params)


def test_logprobs_of_chosen_tokens_are_refused() -> None:
    """vLLM would return them to every request of the batch."""
    check_sampling(SamplingParams(logprobs=2))
    with pytest.raises(VLLMValidationError, match="logprob_token_ids"):
        check_sampling(SamplingParams(logprob_token_ids=[1, 2]))


def test_a_key_given_twice_in_a_grammar_is_refused() -> None:
    twice = f'{{"type": "array", "minItems": {HUGE}, "minItems": 1}}'
    params = SamplingParams(structured_outputs=StructuredOutputsParams(json=twice))
    with pytest.raises(VLLMValidationError, match="'minItems' is given twice"):
        check_sampling(params)


@pytest.mark.parametrize(
    "grammar",
    [
        {"json": {"type": "array", "minItems": 1, "maxItems": 1000}},
        {"json": {"type": "integer", "minimum": 0, "maximum": HUGE}},
        {"json": {"type": "object", "properties": {"maxItems": {"type": "integer"}}}},
        {"json": nested(3, 20)},
        {"json": "no JSON"},
        {"regex": r"[a-z]{1,63}(\.[a-z]{1,63}){0,8}"},
        {"regex": r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}"},
        {"choice": ["a", "b"]},
        {"json_object": True},
    ],
    ids=str,
)
def test_ordinary_grammars_are_not(grammar: dict[str, Any]) -> None:
    check_sampling(SamplingParams(structured_outputs=StructuredOutputsParams(**grammar)))


def test_forbidden_words_are_measured() -> None:
    check_sampling(SamplingParams(bad_words=["word"] * 1000))
    with pytest.raises(VLLMValidationError, match="bad_words: at most 65536 characters"):
        check_sampling(SamplingParams(bad_words=["é " * 40_000]))
    check_sampling(None)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, 0),
        # The prompt has 500 tokens, the completion 2.
        ({"logprobs": 0}, 2 * 1),
        ({"logprobs": 20}, 2 * 21),
        ({"logprobs": 20, "n": 3}, 3 * 2 * 21),
        ({"logprobs": -1}, 2 * 1001),
        ({"prompt_logprobs": 0}, 500 * 1),
        ({"prompt_logprobs": 20, "logprobs": 20, "n": 3}, 3 * (500 + 2) * 21),
        # A stream's tokens leave one by one, its prompt at once.
        ({"logprobs": 20, "output_kind": RequestOutputKind.DELTA}, 0),
        ({"prompt_logprobs": 1, "output_kind": RequestOutputKind.DELTA}, 500 * 2),
        ({"logprobs": 0, "flat_logprobs": True}, 0),
        # Without max_tokens, a chat has what is left of the context.
        ({"logprobs": 20, "max_tokens": 131_072}, 4096 * 21),
    ],
)
def test_logprobs_of_prompt_and_completions(asked: dict[str, Any], expected: int) -> None:
    params = SamplingParams(**{"max_tokens": 2, **asked})
    config = SimpleNamespace(get_vocab_size=lambda: 1000)
    assert num_logprobs(params, tokens_input([1] * 500), config) == expected
