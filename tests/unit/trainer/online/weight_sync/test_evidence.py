"""The statistics of the weight-sync check: by hand, by symmetry, and by all signs that noise can have."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.model.batches.sample import Sample
from trainer.online.weight_sync.alternatives import chosen_samples
from trainer.online.weight_sync.evidence import DistinctTokens, evidence, noise, self_normalized


def sample(
    completion: Sequence[int],
    logprobs: Sequence[float] | None = None,
    *,
    prompt: Sequence[int] = (1,),
    temperature: float = 1.0,
) -> Sample:
    return Sample(
        prompt_ids=tuple(prompt),
        completion_ids=tuple(completion),
        sampler_logprobs=tuple(logprobs or [-1.0] * len(completion)),
        temperature=temperature,
        top_p=1.0,
        reward=0.0,
        truncated=False,
        version=0,
    )


# --- the bound -----------------------------------------------------------------------------------


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=10))
def test_among_all_signs_of_the_noise_a_z_is_as_rare_as_is_claimed(sizes: list[float]) -> None:
    signs = itertools.product((-1.0, 1.0), repeat=len(sizes))
    found = sorted(self_normalized(torch.tensor(s) * torch.tensor(sizes)) for s in signs)
    for rank, z in enumerate(reversed(found), start=1):
        assert z <= 0 or rank / len(found) <= math.exp(-(z**2) / 2) * (1 + 1e-5)


@given(st.lists(st.floats(-1e3, 1e3), max_size=50))
def test_a_z_is_at_most_the_root_of_the_number_of_completions(gains: list[float]) -> None:
    z = self_normalized(torch.tensor(gains, dtype=torch.float64))
    assert abs(z) <= math.sqrt(len(gains)) + 1e-9
    # One completion alone is never proof of anything.
    assert abs(self_normalized(torch.tensor([1e9, *[0.0] * len(gains)]))) == 1


LOGPROBS = st.floats(-8, -1e-3)


@given(st.lists(st.tuples(LOGPROBS, LOGPROBS, LOGPROBS), min_size=1, max_size=30), st.data())
def test_neither_explanation_is_favoured(
    rows: list[tuple[float, float, float]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    server, first, second = zip(*rows, strict=True)
    tokens = DistinctTokens.of(
        [
            sample(range(10, 10 + len(part)), part, prompt=(i,))
            for i, part in enumerate((server[:cut], server[cut:]))
            if part
        ]
    )
    a, b = torch.tensor(first).double(), torch.tensor(second).double()
    z = evidence(tokens, a, b)
    assert evidence(tokens, b, a) == pytest.approx(-z)
    assert evidence(tokens, a, a) == 0


def test_a_z_worked_out_by_hand() -> None:
    # Three completions of one token; half as likely as not, so that sensitivities are 0.5.
    half = math.log(0.5)
    tokens = DistinctTokens.of([sample([5], [half], prompt=(i,)) for i in range(3)])
    first = torch.tensor([half - 0.01, half + 0.02, half - 0.03], dtype=torch.float64)
    second = torch.tensor([half - 0.02, half + 0.01, half + 0.06], dtype=torch.float64)
    # The medians are 0.02 and 0.02, so that a token's scale is 0.02 (and the floor of 2e-6).
    gains = [
        math.log((1 + (a / 0.020002) ** 2) / (1 + (b / 0.020002) ** 2))
        for a, b in [(0.01, 0.02), (0.02, 0.01), (0.03, 0.06)]
    ]
    # Their sizes are about 0.47, 0.47 and 1.12: half of the sum is reached at the largest, and none is cut.
    expected = sum(gains) / math.sqrt(sum(g**2 for g in gains))
    assert evidence(tokens, first, second) == pytest.approx(expected)
    second[2] = torch.nan
    assert evidence(tokens, first, second) == pytest.approx(0, abs=1e-12)


def test_noise_ignores_the_few_tokens_at_the_edge_of_a_nucleus() -> None:
    half = math.log(0.5)
    tokens = DistinctTokens.of([sample(range(10, 20), [half] * 10)])
    trainer = torch.full((10,), half, dtype=torch.float64) + 0.002
    trainer[::4] += 0.3
    found = noise(tokens, trainer)
    assert [found.per_logit, found.nats] == pytest.approx([0.004, 0.002])
    trainer[0] = torch.nan
    assert math.isnan(noise(tokens, trainer).nats)


# --- which tokens --------------------------------------------------------------------------------


def test_a_token_that_completions_share_counts_once_and_of_the_hottest() -> None:
    samples = [
        sample([5, 6, 7], [-0.1, -0.2, -0.3], temperature=0.5),
        sample([5, 6, 8], [-1.1, -1.2, -1.3], temperature=1.0),
        sample([5, 6], [-2.1, -2.2], prompt=(2,)),
        sample([5, 6, 7], [-3.1, -3.2, -3.3], temperature=0.5),
    ]
    tokens = DistinctTokens.of(samples)
    found = dict(zip(tokens.places.tolist(), tokens.completions.tolist(), strict=True))
    assert found == {2: 0, 3: 1, 4: 1, 5: 1, 6: 2, 7: 2}
    server = dict(zip(tokens.places.tolist(), tokens.server.tolist(), strict=True))
    assert server == {2: -0.3, 3: -1.1, 4: -1.2, 5: -1.3, 6: -2.1, 7: -2.2}
    of_first = tokens.sensitivity[tokens.places == 2].item()
    assert of_first == pytest.approx((1 - math.exp(-0.3)) / 0.5)
    assert tokens.num_completions == 3
    places = tokens.chosen(
        [torch.arange(3.0), torch.arange(3.0, 6), torch.arange(6.0, 8), torch.arange(8.0, 11)]
    )
    assert places.tolist() == tokens.places.tolist()


def test_several_hot_completions_of_many_prompts_are_chosen_and_cut_short() -> None:
    samples = [
        sample(range(50), prompt=(prompt,) * 100, temperature=0.1 * arm)
        for prompt in range(9)
        for arm in range(1, 9)
    ]
    chosen = chosen_samples(samples, max_tokens=1000)
    # 100 + 4 x 32 tokens of a prompt.
    assert [s.prompt_ids[0] for s in chosen] == [p for p in range(4) for _ in range(4)]
    assert {round(s.temperature, 1) for s in chosen} == {0.5, 0.6, 0.7, 0.8}
    assert (
        {len(s.completion_ids) for s in chosen} == {len(s.sampler_logprobs) for s in chosen} == {32}
    )
    # The first prompt is looked at whatever it costs.
    assert len(chosen_samples(samples, max_tokens=1)) == 4
