"""Micro-batches: every sample occurs once, within the budget, and every state sees only its own past."""

import random
from dataclasses import replace
from unittest.mock import patch

import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.model.batches.batch import MicroBatch, micro_batches
from trainer.model.batches.sample import Sample

CPU = torch.device("cpu")


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    length = draw(st.integers(1, 8))
    # Few tokens, so that prompts and completions share long beginnings.
    ids = st.integers(1, 2)
    return Sample(
        prompt_ids=tuple(draw(st.lists(ids, min_size=1, max_size=8))),
        completion_ids=tuple(draw(st.lists(ids, min_size=length, max_size=length))),
        sampler_logprobs=tuple(
            draw(st.lists(st.floats(-9, 0, width=32), min_size=length, max_size=length))
        ),
        temperature=draw(st.sampled_from([0.25, 0.5, 2.0])),
        top_p=draw(st.sampled_from([0.5, 1.0])),
        reward=draw(st.floats(-2, 2, width=32)),
        truncated=draw(st.booleans()),
        version=0,
    )


def past(batch: MicroBatch, state: int) -> list[int]:
    """The tokens that a state sees; their positions must be 0, 1, 2, …"""
    row, place = divmod(state, batch.rows.token_ids.shape[1])
    seen = batch.rows.attention_mask[row, 0, place]
    assert batch.rows.position_ids[row][seen].tolist() == list(range(int(seen.sum())))
    return batch.rows.token_ids[row][seen].tolist()


def assert_row_is_sample(batch: MicroBatch, i: int, sample: Sample) -> None:
    length = len(sample.completion_ids)
    padding = batch.mask.shape[1] - length
    assert batch.mask[i].tolist() == [True] * length + [False] * padding
    assert batch.sampler_logprobs[i].tolist() == [*sample.sampler_logprobs, *[0.0] * padding]
    assert batch.rewards[i] == sample.reward
    assert bool(batch.terminal[i]) is not sample.truncated
    ids = [*sample.prompt_ids, *sample.completion_ids]
    states = batch.states[i].tolist()
    for k, token in enumerate(sample.completion_ids):
        assert past(batch, states[k]) == ids[: len(sample.prompt_ids) + k]
        drawn = int(batch.sampled_index[i, k])
        assert batch.sampled.states[drawn] == states[k]
        assert batch.sampled.token_ids[drawn] == token
        assert batch.sampled.temperature[drawn] == sample.temperature
        assert batch.sampled.top_p[drawn] == sample.top_p
    # After the last token stands a state only where it is not terminal.
    last = states[length] if sample.truncated else states[length - 1]
    assert past(batch, last) == (ids if sample.truncated else ids[:-1])
    assert states[length:] == [last] * (padding + 1)


@given(
    st.lists(samples(), min_size=1, max_size=10),
    st.integers(1, 120),
    st.booleans(),
    st.sampled_from([1, 8]),
)
def test_micro_batches_hold_every_sample_once_within_the_budget(
    rows: list[Sample], token_budget: int, shares_prefixes: bool, width_step: int
) -> None:
    with patch.dict("trainer.model.batches.batch._WIDTH_STEPS", cpu=width_step):
        batches = micro_batches(
            rows,
            token_budget=token_budget,
            hidden_size=128,
            device=CPU,
            shares_prefixes=shares_prefixes,
        )

    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(rows)))
    for batch in batches:
        # What is longer than the budget comes with nothing but what it shares all of.
        longest = max(len(rows[index].state_ids) for index in batch.indices)
        assert batch.num_tokens <= max(token_budget, longest)
        num_rows, width = batch.rows.token_ids.shape
        is_aligned = width % width_step == 0
        assert is_aligned or num_rows * (width + width_step - width % width_step) > token_budget
        for place, index in enumerate(batch.indices):
            assert_row_is_sample(batch, place, rows[index])
        # Padding sees itself alone.
        seen = batch.rows.attention_mask.sum(dim=-1).squeeze(1)
        assert (seen >= 1).all()


@given(st.lists(samples(), min_size=1, max_size=10))
def test_sampled_tokens_are_distinct_and_those_with_a_nucleus_first(rows: list[Sample]) -> None:
    for batch in micro_batches(rows, token_budget=60, hidden_size=128, device=CPU):
        drawn = list(
            zip(
                batch.sampled.states.tolist(),
                batch.sampled.token_ids.tolist(),
                batch.sampled.temperature.tolist(),
                batch.sampled.top_p.tolist(),
                strict=True,
            )
        )
        assert len(set(drawn)) == len(drawn)
        num_restricted = batch.sampled.num_restricted
        assert [top_p < 1 for *_, top_p in drawn] == [i < num_restricted for i in range(len(drawn))]
        assert set(batch.sampled_index[batch.mask].tolist()) == set(range(len(drawn)))


def test_what_samples_share_is_computed_once() -> None:
    rng = random.Random(0)
    prompt = tuple(rng.choices(range(500), k=30))
    beginning = tuple(rng.choices(range(500), k=10))
    group = [
        Sample(
            prompt_ids=prompt,
            completion_ids=(*beginning, 501 + i, 500),
            sampler_logprobs=(-1.0,) * 12,
            temperature=0.5,
            top_p=1.0,
            reward=0.0,
            truncated=False,
            version=0,
        )
        for i in range(4)
    ]
    (batch,) = micro_batches(group, token_budget=1000, hidden_size=128, device=CPU)
    # The last token of a terminal completion is no state.
    assert batch.rows.token_ids.shape == (1, 30 + 10 + 4)
    assert len(batch.sampled.token_ids) == 10 + 4 + 4
    # Strangers lie in rows of their own: attention over all of them would be dearer.
    strangers = [
        replace(sample, prompt_ids=tuple(rng.choices(range(500), k=500))) for sample in group
    ]
    (batch,) = micro_batches(strangers, token_budget=10_000, hidden_size=128, device=CPU)
    assert batch.rows.token_ids.shape == (4, 511)


def test_no_sample_gives_no_micro_batch() -> None:
    assert micro_batches([], token_budget=8, hidden_size=128, device=CPU) == []
