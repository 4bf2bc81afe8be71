"""What the engine sends to the front end: nothing is lost or reordered, and the first and last tokens are sent at once."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

engine = pytest.importorskip("vllm.v1.engine")
outputs = pytest.importorskip("vllm.v1.outputs")
sampling_params = pytest.importorskip("vllm.sampling_params")
joined_outputs = pytest.importorskip("inference_server.vllm.joined_outputs")

Kind = sampling_params.RequestOutputKind
MAX_STEPS = joined_outputs.MAX_STEPS


def request(**settings: Any) -> Any:
    params = sampling_params.SamplingParams(**{"output_kind": Kind.FINAL_ONLY, **settings})
    return SimpleNamespace(sampling_params=params)


def output(name: str, *tokens: int, width: int = 1, **fields: Any) -> Any:
    rows = np.array(tokens, dtype=np.int64)[:, None] + np.arange(width)
    logprobs = outputs.LogprobsLists(rows, -rows.astype(np.float32), rows[:, 0]) if width else None
    return engine.EngineCoreOutput(name, list(tokens), new_logprobs=logprobs, **fields)


def end() -> Any:
    return engine.FinishReason.LENGTH


def tokens_of(sent: list[Any]) -> list[list[int]]:
    return [one.new_token_ids for one in sent]


def test_tokens_of_several_steps_are_one_message_and_the_end_is_sent_at_once() -> None:
    joiner, requests = joined_outputs.OutputJoiner(), {"a": request()}
    steps = [joiner.join([output("a", token)], requests) for token in range(MAX_STEPS + 2)]
    assert [tokens_of(step) for step in steps if step] == [[list(range(MAX_STEPS))]]
    (last,) = joiner.join([output("a", 99, finish_reason=end(), stop_reason=7)], {})
    assert last.new_token_ids == [MAX_STEPS, MAX_STEPS + 1, 99]
    assert (last.finish_reason, last.stop_reason) == (end(), 7)
    assert last.new_logprobs.logprob_token_ids.tolist() == [[16], [17], [99]]
    assert last.new_logprobs.logprobs.tolist() == [[-16.0], [-17.0], [-99.0]]
    assert last.new_logprobs.sampled_token_ranks.tolist() == [16, 17, 99]


@pytest.mark.parametrize(
    "waiting",
    [
        request(output_kind=Kind.DELTA),
        request(output_kind=Kind.CUMULATIVE),
        request(stop=["\n"]),
        SimpleNamespace(sampling_params=None),
        None,
    ],
    ids=["streamed", "cumulative", "stop strings", "pooling", "unknown"],
)
def test_a_token_that_somebody_waits_for_is_sent_at_once(waiting: Any) -> None:
    joiner = joined_outputs.OutputJoiner()
    requests = {} if waiting is None else {"a": waiting}
    steps = [joiner.join([output("a", token)], requests) for token in (1, 2, 3)]
    assert [tokens_of(step) for step in steps] == [[[1]], [[2]], [[3]]]


def test_every_other_field_is_sent_at_once_and_kept() -> None:
    """Also a field that a later vLLM adds: only tokens and logprobs are ever held back."""
    names = set(engine.EngineCoreOutput.__struct_fields__)
    for name in names - {"request_id", "new_token_ids", "new_logprobs"}:
        joiner, requests = joined_outputs.OutputJoiner(), {"a": request()}
        assert joiner.join([output("a", 1)], requests) == []
        with_field = output("a", 2)
        setattr(with_field, name, ["set"])
        (sent,) = joiner.join([with_field], requests)
        is_first = name == "prefill_stats"  # then the output before is not the same request's
        assert sent.new_token_ids == ([2] if is_first else [1, 2])
        assert getattr(sent, name) == ["set"]


def test_steps_with_another_number_of_logprobs_stay_apart() -> None:
    joiner, requests = joined_outputs.OutputJoiner(), {"a": request()}
    for token, width in ((1, 1), (2, 1), (3, 6)):
        assert joiner.join([output("a", token, width=width)], requests) == []
    sent = joiner.join([output("a", 4, width=6, finish_reason=end())], {})
    assert tokens_of(sent) == [[1, 2], [3, 4]]
    assert [one.new_logprobs.logprobs.shape for one in sent] == [(2, 1), (2, 6)]
    assert [one.finish_reason for one in sent] == [None, end()]


def test_what_an_aborted_request_left_is_forgotten() -> None:
    joiner, requests = joined_outputs.OutputJoiner(), {"a": request(), "b": request()}
    assert joiner.join([output("a", 1), output("b", 2)], requests) == []
    del requests["a"]
    joiner.forget_all_but(requests)
    assert joiner._held_back.keys() == {"b"}


def test_an_aborted_request_leaves_nothing_to_another_with_its_id() -> None:
    """vLLM makes ids unique, unless ``VLLM_DISABLE_REQUEST_ID_RANDOMIZATION`` is set."""
    joiner, requests = joined_outputs.OutputJoiner(), {"a": request()}
    joiner.join([output("a", 1), output("a", 2)], requests)
    (first,) = joiner.join([output("a", 3, prefill_stats=["the first output has them"])], requests)
    assert first.new_token_ids == [3]


def test_each_front_end_gets_what_its_requests_held_back() -> None:
    scheduler = SimpleNamespace(requests={"a": request(), "b": request()})

    def update(scheduler: Any, *, ends: bool) -> dict[int, Any]:
        if ends:
            scheduler.requests = {"a": scheduler.requests["a"]}
        made = {0: output("a", 1), 1: output("b", 2, finish_reason=end() if ends else None)}
        return {front_end: SimpleNamespace(outputs=[one]) for front_end, one in made.items()}

    joined_update = joined_outputs.with_joined_outputs(update)
    assert [sent.outputs for sent in joined_update(scheduler, ends=False).values()] == [[], []]
    first, second = joined_update(scheduler, ends=True).values()
    assert first.outputs == []
    assert tokens_of(second.outputs) == [[2, 2]]
    assert scheduler.output_joiner._held_back.keys() == {"a"}


def test_requests_of_one_step_are_sent_in_different_steps() -> None:
    names = [f"{i}" for i in range(2 * MAX_STEPS)]
    joiner, requests = joined_outputs.OutputJoiner(), {name: request() for name in names}
    steps = [
        joiner.join([output(name, token) for name in names], requests)
        for token in range(4 * MAX_STEPS)
    ]
    assert [len(step) for step in steps] == [2] * len(steps)
    assert max(len(one.new_token_ids) for step in steps for one in step) == MAX_STEPS


STEPS = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 3), min_size=1), max_size=60
)


@given(STEPS, st.integers(0, 2))
def test_the_front_end_gets_every_token_and_logprob_in_order(
    steps: list[dict[str, int]], width: int
) -> None:
    joiner, requests = joined_outputs.OutputJoiner(), {name: request() for name in "abc"}
    sampled: dict[str, list[int]] = defaultdict(list)
    sent: dict[str, list[int]] = defaultdict(list)
    logprobs: dict[str, list[float]] = defaultdict(list)

    def receive(made: list[Any]) -> None:
        for one in made:
            sent[one.request_id] += one.new_token_ids
            if width:
                logprobs[one.request_id] += one.new_logprobs.logprobs[:, 0].tolist()

    for step in steps:
        made = []
        for name, number in step.items():
            tokens = [len(sampled[name]) + i for i in range(number)]
            sampled[name] += tokens
            made.append(output(name, *tokens, width=width))
        receive(joiner.join(made, requests))
    ends = [output(name, -1, width=width, finish_reason=end()) for name in "abc"]
    receive(joiner.join(ends, {}))
    joiner.forget_all_but({})
    for name in "abc":
        assert sent[name] == [*sampled[name], -1]
        assert logprobs[name] == ([-float(token) for token in sent[name]] if width else [])
    assert joiner._held_back == {}
