"""Rewards, advantages and whitening against sums written out token by token in float64."""

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from trainer.ppo.advantages import (
    generalized_advantages,
    group_advantages,
    leave_one_out,
    length_adaptive_lambda,
    token_rewards,
    whiten,
)

GARBAGE = math.nan
"""Put on padding, which nothing may read."""

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
    np.testing.assert_allclose(estimate.advantages, padded(expected), atol=1e-10, rtol=0)
    targets = [
        [a + v for a, v in zip(*pair, strict=True)] for pair in zip(expected, values, strict=True)
    ]
    np.testing.assert_allclose(estimate.returns, padded(targets), atol=1e-10, rtol=0)


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
    rows=trajectories(),
    gamma=st.floats(0.5, 1),
    lambdas=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_every_completion_may_have_a_lambda_of_its_own(
    rows: list[tuple[list[float], list[float], float]], gamma: float, lambdas: list[float]
) -> None:
    rewards = [row[0] for row in rows]
    estimate = generalized_advantages(
        padded(rewards, GARBAGE),
        padded([row[1] for row in rows], GARBAGE),
        mask_of(rewards),
        torch.tensor([row[2] for row in rows], dtype=torch.float64),
        gamma=gamma,
        lam=torch.tensor(lambdas[: len(rows)], dtype=torch.float64),
    )
    expected = [gae_by_hand(*row, gamma, lam) for row, lam in zip(rows, lambdas, strict=False)]
    np.testing.assert_allclose(estimate.advantages, padded(expected), atol=1e-10, rtol=0)


def test_length_adaptive_lambdas_worked_out_by_hand() -> None:
    lengths = [0, 1, 20, 21, 40, 100, 1000]
    mask = torch.arange(1000) < torch.tensor(lengths).unsqueeze(1)
    found = length_adaptive_lambda(mask, alpha=0.05)
    # 1 - 1/(0.05 n), which is 0 at 20 tokens and would be negative below.
    expected = [0.0, 0.0, 0.0, 1 - 1 / 1.05, 0.5, 0.8, 0.98]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(rows=trajectories(), gamma=st.floats(0.5, 1))
def test_gae_of_lambda_one_is_the_discounted_return_less_the_value(
    rows: list[tuple[list[float], list[float], float]], gamma: float
) -> None:
    estimate = generalized_advantages(
        padded([row[0] for row in rows]),
        padded([row[1] for row in rows]),
        mask_of([row[0] for row in rows]),
        torch.tensor([row[2] for row in rows], dtype=torch.float64),
        gamma=gamma,
        lam=1.0,
    )
    returns = [
        [
            sum(
                gamma ** (k - t) * earned
                for k, earned in enumerate([*rewards, bootstrap])
                if k >= t
            )
            for t in range(len(rewards))
        ]
        for rewards, _, bootstrap in rows
    ]
    np.testing.assert_allclose(estimate.returns, padded(returns), atol=1e-10, rtol=0)


@given(
    rows=st.lists(
        st.tuples(st.lists(numbers, max_size=5), numbers, st.booleans()), min_size=1, max_size=4
    ).filter(lambda rows: any(row[0] for row in rows)),
    kl_coef=st.floats(0, 2),
)
def test_every_token_pays_its_kl_and_the_last_of_a_terminal_row_earns_the_reward(
    rows: list[tuple[list[float], float, bool]], kl_coef: float
) -> None:
    kl = [row[0] for row in rows]

    rewards = token_rewards(
        torch.tensor([reward for _, reward, _ in rows], dtype=torch.float64),
        padded(kl, GARBAGE),
        mask_of(kl),
        torch.tensor([terminal for _, _, terminal in rows]),
        kl_coef=kl_coef,
    )

    expected = []
    for estimates, reward, terminal in rows:
        row = [-kl_coef * estimate for estimate in estimates]
        if terminal and row:
            row[-1] += reward
        expected.append(row)
    np.testing.assert_allclose(rewards, padded(expected), atol=1e-10, rtol=0)


@given(
    st.lists(
        st.lists(st.tuples(numbers, st.booleans()), min_size=1), min_size=1, max_size=4
    ).filter(lambda tensors: len({a for row in tensors for a, kept in row if kept}) >= 2)
)
def test_whitening_is_over_the_masked_tokens_of_all_tensors_together(
    tensors: list[list[tuple[float, bool]]],
) -> None:
    advantages = [padded([[a if kept else GARBAGE for a, kept in row]]) for row in tensors]
    masks = [torch.tensor([[kept for _, kept in row]]) for row in tensors]

    whitened = whiten(advantages, masks)

    trained = [a for row in tensors for a, kept in row if kept]
    mean = sum(trained) / len(trained)
    std = (sum((a - mean) ** 2 for a in trained) / (len(trained) - 1)) ** 0.5
    assume(std > 1e-2)  # Below, a floor on the scale may show; that case has a test of its own.
    for row, result in zip(tensors, whitened, strict=True):
        expected = [[(a - mean) / std if kept else 0.0 for a, kept in row]]
        np.testing.assert_allclose(result, expected, atol=1e-10, rtol=0)


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


# --- against the group -----------------------------------------------------------------------------


def advantages_of(
    rewards: list[float],
    sizes: list[int],
    estimator: Literal["rloo", "grpo"],
    *,
    kl: list[float] | None = None,
    counted: list[bool] | None = None,
    kl_coef: float = 0.0,
) -> list[float]:
    n = len(rewards)
    found: list[float] = group_advantages(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(kl or [0.0] * n, dtype=torch.float64),
        torch.tensor(counted or [True] * n),
        sizes,
        estimator=estimator,
        kl_coef=kl_coef,
    ).tolist()
    return found


@pytest.mark.parametrize(
    ("estimator", "rewards", "sizes", "advantages"),
    [
        # Less the mean of the others: 3 - (1 + 2)/2, 1 - (3 + 2)/2, 2 - (3 + 1)/2.
        ("rloo", [3.0, 1.0, 2.0], [3], [1.5, -1.5, 0.0]),
        ("rloo", [1.0, 0.0, 5.0, 5.0], [2, 2], [1.0, -1.0, 0.0, 0.0]),
        ("rloo", [1.0, 2.0], [1, 1], [0.0, 0.0]),
        # Mean 2, standard deviation 1.
        ("grpo", [3.0, 1.0, 2.0], [3], [1.0, -1.0, 0.0]),
        ("grpo", [1.0, 0.0, 5.0, 5.0], [2, 2], [2**-0.5, -(2**-0.5), 0.0, 0.0]),
        ("grpo", [1.0, 2.0], [1, 1], [0.0, 0.0]),
    ],
)
def test_group_advantages_worked_out_by_hand(
    estimator: Literal["rloo", "grpo"],
    rewards: list[float],
    sizes: list[int],
    advantages: list[float],
) -> None:
    assert advantages_of(rewards, sizes, estimator) == pytest.approx(advantages, abs=1e-10)


def test_the_kl_enters_rloo_as_a_reward_and_grpo_beside_the_normalised_reward() -> None:
    # Rewards 3, 1, 2 and KL 2, 0, 4 at 0.5: rewards with KL are 2, 1, 0.
    kl = [2.0, 0.0, 4.0]
    rloo = advantages_of([3.0, 1.0, 2.0], [3], "rloo", kl=kl, kl_coef=0.5)
    assert rloo == pytest.approx([1.5, 0.0, -1.5], abs=1e-10)
    # KL less that of the others: 2 - 2, 0 - 3, 4 - 1.
    grpo = advantages_of([3.0, 1.0, 2.0], [3], "grpo", kl=kl, kl_coef=0.5)
    assert grpo == pytest.approx([1.0, -1.0 + 1.5, -1.5], abs=1e-10)
    # Equal rewards leave the KL alone, at its own scale.
    for estimator in ("rloo", "grpo"):
        alone = advantages_of([1.0, 1.0, 1.0], [3], estimator, kl=[0.02, 0.0, 0.04], kl_coef=0.5)
        assert alone == pytest.approx([0.0, 0.015, -0.015], abs=1e-10)


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_what_is_not_counted_is_no_ones_comparison(estimator: Literal["rloo", "grpo"]) -> None:
    found = advantages_of(
        [3.0, 99.0, 1.0, 2.0, 7.0], [4, 1], estimator, counted=[True, False, True, True, False]
    )
    without = advantages_of([3.0, 1.0, 2.0], [3], estimator)
    assert found == [without[0], 0.0, without[1], without[2], 0.0]


@given(
    groups=st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5), max_size=4),
    kl_coef=st.floats(0, 1),
    estimator=st.sampled_from(["rloo", "grpo"]),
)
def test_group_advantages_sum_to_zero_over_every_group_and_are_the_equations(
    groups: list[list[tuple[float, float]]], kl_coef: float, estimator: Literal["rloo", "grpo"]
) -> None:
    for group in groups:
        spread = np.ptp([r for r, _ in group])
        assume(spread == 0 or spread > 1e-2)  # Below, the floor under the deviation may show.
    flat = [pair for group in groups for pair in group]
    found = advantages_of(
        [r for r, _ in flat],
        [len(group) for group in groups],
        estimator,
        kl=[k for _, k in flat],
        kl_coef=kl_coef,
    )
    start = 0
    for group in groups:
        r, k = (np.array(side) for side in zip(*group, strict=True))
        g = len(group)
        of_group = np.array(found[start : start + g])
        start += g
        expected = np.zeros(g)
        for i in range(g):
            others = [j for j in range(g) if j != i]
            if not others:
                continue
            if estimator == "rloo":
                own = r - kl_coef * k
                expected[i] = own[i] - own[others].mean()
            else:
                std = r.std(ddof=1)
                expected[i] = (r[i] - r.mean()) / std if np.ptp(r) else 0.0
                expected[i] -= kl_coef * (k[i] - k[others].mean())
        np.testing.assert_allclose(of_group, expected, atol=1e-10, rtol=0)
        assert of_group.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("value", [0.1, -0.35, 1.7])
@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
def test_equal_float32_rewards_are_no_signal(value: float, size: int) -> None:
    rewards = torch.full((size,), value)
    assert torch.equal(leave_one_out(rewards), torch.zeros(size))
    grpo = group_advantages(
        rewards,
        torch.zeros(size),
        torch.ones(size, dtype=torch.bool),
        [size],
        estimator="grpo",
        kl_coef=0.1,
    )
    assert torch.equal(grpo, torch.zeros(size))
