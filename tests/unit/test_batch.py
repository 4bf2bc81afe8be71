"""Micro-batches: every sample once, within the budget, with its numbers where they belong."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.batch import MicroBatch, Sample, collate, micro_batches

CPU = torch.device("cpu")


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    length = draw(st.integers(1, 12))
    ids = st.integers(1, 500)
    return Sample(
        prompt_ids=tuple(draw(st.lists(ids, min_size=1, max_size=12))),
        completion_ids=tuple(draw(st.lists(ids, min_size=length, max_size=length))),
        sampler_logprobs=tuple(
            draw(st.lists(st.floats(-9, 0, width=32), min_size=length, max_size=length))
        ),
        temperature=draw(st.floats(0.125, 2, width=32)),
        top_p=draw(st.floats(0.125, 1, width=32)),
        reward=draw(st.floats(-2, 2, width=32)),
        truncated=draw(st.booleans()),
        version=0,
    )


def assert_row_is_sample(batch: MicroBatch, i: int, sample: Sample) -> None:
    num_prompt, length = len(sample.prompt_ids), len(sample.completion_ids)
    pad_width = batch.input_ids.shape[1] - sample.num_tokens
    pad_completion = batch.mask.shape[1] - length
    assert batch.input_ids[i].tolist() == [
        *sample.prompt_ids,
        *sample.completion_ids,
        *[0] * pad_width,
    ]
    assert batch.prompt_lengths[i] == num_prompt
    assert batch.completion_ids[i].tolist() == [*sample.completion_ids, *[0] * pad_completion]
    assert batch.mask[i].tolist() == [True] * length + [False] * pad_completion
    assert batch.sampler_logprobs[i].tolist() == [*sample.sampler_logprobs, *[0.0] * pad_completion]
    assert batch.temperature[i] == sample.temperature
    assert batch.top_p[i] == sample.top_p
    assert batch.rewards[i] == sample.reward
    assert bool(batch.terminal[i]) is not sample.truncated
    # The state before completion token k is read where the token before it stands; the state after
    # the last token, and padding, where the last token stands.
    last = sample.num_tokens - 1
    assert batch.state_positions[i].tolist() == [
        *range(num_prompt - 1, last),
        *[last] * (pad_completion + 1),
    ]


@given(st.lists(samples(), min_size=1, max_size=12), st.integers(1, 200))
def test_micro_batches_hold_every_sample_once_within_the_budget(
    rows: list[Sample], token_budget: int
) -> None:
    batches = micro_batches(rows, token_budget=token_budget, device=CPU)

    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(rows)))
    for batch in batches:
        assert batch.input_ids.numel() <= token_budget or len(batch.indices) == 1
        for place, index in enumerate(batch.indices):
            assert_row_is_sample(batch, place, rows[index])
    # Sorted and cut as late as possible: the first sample of the next one did not fit.
    for batch, following in pairwise(batches):
        longest = max(rows[i].num_tokens for i in batch.indices)
        newcomer = min(rows[i].num_tokens for i in following.indices)
        assert newcomer >= longest
        assert newcomer * (len(batch.indices) + 1) > token_budget


@given(st.lists(samples(), min_size=2, max_size=8), st.data())
def test_only_the_chosen_samples_are_batched(rows: list[Sample], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, unique=True))
    batches = micro_batches(rows, token_budget=64, device=CPU, indices=chosen)
    assert sorted(i for batch in batches for i in batch.indices) == sorted(chosen)
    for batch in batches:
        for place, index in enumerate(batch.indices):
            assert_row_is_sample(batch, place, rows[index])


@given(st.lists(samples(), min_size=1, max_size=5), st.data())
def test_collate_keeps_the_order_that_it_is_given(rows: list[Sample], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    batch = collate(rows, order, CPU)
    assert batch.indices == tuple(order)
    for place, index in enumerate(order):
        assert_row_is_sample(batch, place, rows[index])


def test_no_sample_gives_no_micro_batch() -> None:
    assert micro_batches([], token_budget=8, device=CPU) == []
