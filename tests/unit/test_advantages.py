"""Rewards, advantages and whitening against sums written out token by token in float64."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from trainer.advantages import generalized_advantages, token_rewards, whiten

GARBAGE = 1e3
"""Stands on padding wherever the contract does not say what is there."""

numbers = st.floats(-3, 3, width=32)


def padded(rows: list[list[float]], fill: float = 0.0) -> Tensor:
    """[B, T] in float64, padded on the right."""
    width = max(map(len, rows))
    return torch.tensor(
        [row + [fill] * (width - len(row)) for row in rows], dtype=torch.float64
    ).reshape(len(rows), width)


def mask_of(rows: list[list[float]]) -> Tensor:
    return padded([[1.0] * len(row) for row in rows]).bool()


def gae_by_hand(
    rewards: list[float], values: list[float], bootstrap: float, gamma: float, lam: float
) -> list[float]:
    """Equation 16 as it is printed: a discounted sum of TD errors, no recursion."""
    after = [*values[1:], bootstrap]
    errors = [r + gamma * v_next - v for r, v_next, v in zip(rewards, after, values, strict=True)]
    return [
        sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, len(errors)))
        for t in range(len(errors))
    ]


@st.composite
def trajectories(draw: st.DrawFn) -> list[tuple[list[float], list[float], float]]:
    """Completions of one to six tokens as (rewards, values, bootstrap value)."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    return [
        (
            draw(st.lists(numbers, min_size=n, max_size=n)),
            draw(st.lists(numbers, min_size=n, max_size=n)),
            draw(numbers),
        )
        for n in lengths
    ]


@given(rows=trajectories(), gamma=st.floats(0.5, 1), lam=st.floats(0, 1))
def test_gae_is_the_discounted_sum_of_td_errors_of_every_row(
    rows: list[tuple[list[float], list[float], float]], gamma: float, lam: float
) -> None:
    rewards = [row[0] for row in rows]
    values = [row[1] for row in rows]
    bootstrap = [row[2] for row in rows]

    estimate = generalized_advantages(
        padded(rewards, GARBAGE),
        padded(values, GARBAGE),
        mask_of(rewards),
        torch.tensor(bootstrap, dtype=torch.float64),
        gamma=gamma,
        lam=lam,
    )

    expected = [gae_by_hand(*row, gamma, lam) for row in rows]
    np.testing.assert_allclose(estimate.advantages, padded(expected), atol=1e-9)
    targets = [
        [a + v for a, v in zip(*pair, strict=True)] for pair in zip(expected, values, strict=True)
    ]
    np.testing.assert_allclose(estimate.returns, padded(targets), atol=1e-9)


@pytest.mark.parametrize(
    ("lam", "bootstrap", "advantages"),
    [
        # Rewards 0, 0, 1 and a critic that says 0.5 everywhere; gamma is 1.
        (0.0, 0.0, [0.0, 0.0, 0.5]),
        (1.0, 0.0, [0.5, 0.5, 0.5]),
        (0.95, 0.0, [0.95**2 * 0.5, 0.95 * 0.5, 0.5]),
        (1.0, 2.0, [2.5, 2.5, 2.5]),
    ],
)
def test_gae_worked_out_by_hand(lam: float, bootstrap: float, advantages: list[float]) -> None:
    estimate = generalized_advantages(
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.full((1, 3), 0.5),
        torch.ones(1, 3, dtype=torch.bool),
        torch.tensor([bootstrap]),
        gamma=1.0,
        lam=lam,
    )
    np.testing.assert_allclose(estimate.advantages, [advantages], rtol=1e-6)
    np.testing.assert_allclose(estimate.returns, [[a + 0.5 for a in advantages]], rtol=1e-6)


@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), numbers, st.booleans()
        ),
        min_size=1,
        max_size=4,
    ),
    kl_coef=st.floats(0, 2),
)
def test_every_token_pays_its_kl_and_the_last_of_a_terminal_row_earns_the_reward(
    rows: list[tuple[list[tuple[float, float]], float, bool]], kl_coef: float
) -> None:
    policy = [[p for p, _ in pairs] for pairs, _, _ in rows]
    reference = [[r for _, r in pairs] for pairs, _, _ in rows]

    rewards = token_rewards(
        torch.tensor([reward for _, reward, _ in rows], dtype=torch.float64),
        padded(policy, GARBAGE),
        padded(reference, -GARBAGE),
        mask_of(policy),
        torch.tensor([terminal for _, _, terminal in rows]),
        kl_coef=kl_coef,
    )

    expected = []
    for pairs, reward, terminal in rows:
        row = [-kl_coef * (p - r) for p, r in pairs]
        if terminal:
            row[-1] += reward
        expected.append(row)
    np.testing.assert_allclose(rewards, padded(expected), atol=1e-9)


@given(
    st.lists(
        st.lists(st.tuples(numbers, st.booleans()), min_size=1), min_size=1, max_size=4
    ).filter(lambda tensors: len({a for row in tensors for a, kept in row if kept}) >= 2)
)
def test_whitening_is_over_the_masked_tokens_of_all_tensors_together(
    tensors: list[list[tuple[float, bool]]],
) -> None:
    advantages = [padded([[a for a, _ in row]]) for row in tensors]
    masks = [torch.tensor([[kept for _, kept in row]]) for row in tensors]

    whitened = whiten(advantages, masks)

    trained = [a for row in tensors for a, kept in row if kept]
    mean = sum(trained) / len(trained)
    std = (sum((a - mean) ** 2 for a in trained) / (len(trained) - 1)) ** 0.5
    assume(std > 1e-2)  # Below, a floor on the scale may show; that case has a test of its own.
    for row, result in zip(tensors, whitened, strict=True):
        expected = [[(a - mean) / std if kept else 0.0 for a, kept in row]]
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("value", [0.0, 0.1, -0.35, 1.7])
def test_equal_advantages_whiten_to_zero_and_not_to_rounding_noise(
    value: float, num_tokens: int
) -> None:
    mask = torch.ones(1, num_tokens, dtype=torch.bool)
    (whitened,) = whiten([torch.full((1, num_tokens), value)], [mask])
    assert whitened.abs().max() < 1e-2


def test_whitening_no_token_at_all_gives_zeros() -> None:
    (whitened,) = whiten([torch.ones(2, 3)], [torch.zeros(2, 3, dtype=torch.bool)])
    assert torch.equal(whitened, torch.zeros(2, 3))
