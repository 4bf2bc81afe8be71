"""The losses against case analyses written out token by token, and their gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.losses import (
    AdaptiveKL,
    explained_variance,
    importance_weights,
    policy_loss,
    value_loss,
)

LOW, HIGH = 0.2, 0.3


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def surrogate_by_hand(ratio: float, advantage: float, dual_clip: float | None) -> float:
    """What a token adds to the objective, by the sign of its advantage."""
    if advantage >= 0:
        return advantage * min(ratio, 1 + HIGH)
    bounded = max(ratio, 1 - LOW)
    if dual_clip is not None:
        bounded = min(bounded, dual_clip)
    return advantage * bounded


@st.composite
def tokens(draw: st.DrawFn) -> list[tuple[float, float, float, float, bool]]:
    """(current logprob, proximal logprob, advantage, weight, mask) a token."""
    return draw(
        st.lists(
            st.tuples(
                st.floats(-4, 0),
                st.floats(-4, 0),
                st.floats(-3, 3),
                st.floats(0, 2),
                st.booleans(),
            ),
            min_size=1,
            max_size=8,
        )
    )


@given(
    tokens=tokens(),
    dual_clip=st.sampled_from([None, 1.5, 3.0]),
    num_tokens=st.integers(1, 20),
)
def test_policy_loss_is_the_surrogate_of_every_token(
    tokens: list[tuple[float, float, float, float, bool]],
    dual_clip: float | None,
    num_tokens: int,
) -> None:
    current, proximal, advantages, weights, mask = (
        list(column) for column in zip(*tokens, strict=True)
    )

    loss, metrics = policy_loss(
        row(*current),
        row(*proximal),
        row(*advantages),
        row(*weights),
        torch.tensor([mask]),
        clip_low=LOW,
        clip_high=HIGH,
        dual_clip=dual_clip,
        num_tokens=num_tokens,
    )

    total = approx_kl = 0.0
    clipped = 0
    for c, p, a, w, kept in tokens:
        if not kept:
            continue
        ratio = math.exp(c - p)
        total -= w * surrogate_by_hand(ratio, a, dual_clip)
        approx_kl += ratio - 1 - (c - p)
        # Advantages so small that the two products round to the same number clip nothing.
        if ratio > 1 + HIGH:
            clipped += (1 + HIGH) * a < ratio * a
        elif ratio < 1 - LOW:
            clipped += (1 - LOW) * a < ratio * a
    assert float(loss) == pytest.approx(total / num_tokens, abs=1e-9)
    assert metrics.loss == pytest.approx(total, abs=1e-9)
    assert metrics.approx_kl == pytest.approx(approx_kl, abs=1e-9)
    assert metrics.clipped_tokens == clipped


# (ratio, advantage, whether the gradient passes), at low 0.2, high 0.3, dual clip 3.
GRADIENTS = [
    (1.0, 2.0, True),
    (1.0, -2.0, True),
    (1.25, 1.0, True),  # asymmetric: above 1 + low, below 1 + high
    (1.35, 1.0, False),
    (0.5, 1.0, True),  # a better token that got less likely is pulled back
    (0.85, -1.0, True),
    (0.75, -1.0, False),
    (2.5, -1.0, True),  # a worse token that got more likely, within the dual clip
    (3.5, -1.0, False),  # beyond it
]


@pytest.mark.parametrize(("ratio", "advantage", "passes"), GRADIENTS)
def test_policy_gradient_stops_exactly_where_the_clips_say(
    ratio: float, advantage: float, passes: bool
) -> None:
    current = row(math.log(ratio)).requires_grad_()
    loss, _ = policy_loss(
        current,
        row(0.0),
        row(advantage),
        row(0.5),
        torch.ones(1, 1, dtype=torch.bool),
        clip_low=LOW,
        clip_high=HIGH,
        dual_clip=3.0,
        num_tokens=4,
    )
    loss.backward()
    assert current.grad is not None
    expected = -0.5 * ratio * advantage / 4 if passes else 0.0
    assert float(current.grad) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_policy_loss_passes_gradcheck(dual_clip: float | None) -> None:
    ratios, advantages, _ = zip(*GRADIENTS, strict=True)
    current = row(*map(math.log, ratios)).requires_grad_()
    mask = torch.ones(1, len(ratios), dtype=torch.bool)
    mask[0, 0] = False
    weights = row(*np.linspace(0.1, 2.0, len(ratios)))

    def loss(logprobs: Tensor) -> Tensor:
        return policy_loss(
            logprobs,
            torch.zeros_like(logprobs),
            row(*advantages),
            weights,
            mask,
            clip_low=LOW,
            clip_high=HIGH,
            dual_clip=dual_clip,
            num_tokens=7,
        )[0]

    assert torch.autograd.gradcheck(loss, (current,))


def test_importance_weights_are_truncated_ratios_without_gradient() -> None:
    proximal = row(-1.0, -1.0, -1.0, -1.0).requires_grad_()
    weights = importance_weights(proximal, row(-1.0, -0.5, -1.5, -9.0), max_weight=2.0)
    np.testing.assert_allclose(weights, [[1.0, math.exp(-0.5), math.exp(0.5), 2.0]])
    assert not weights.requires_grad


@given(
    tokens=st.lists(
        st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3), st.booleans()),
        min_size=1,
        max_size=8,
    ),
    clip=st.none() | st.floats(0.05, 1),
    num_tokens=st.integers(1, 20),
)
def test_value_loss_is_the_worse_of_the_moved_and_the_limited_value(
    tokens: list[tuple[float, float, float, bool]], clip: float | None, num_tokens: int
) -> None:
    values, old_values, returns, mask = (list(column) for column in zip(*tokens, strict=True))

    loss, metrics = value_loss(
        row(*values),
        row(*old_values),
        row(*returns),
        torch.tensor([mask]),
        clip=clip,
        num_tokens=num_tokens,
    )

    total = 0.0
    clipped = 0
    for value, old, target, kept in tokens:
        if not kept:
            continue
        worst = (value - target) ** 2
        if clip is not None:
            limited = old + min(max(value - old, -clip), clip)
            clipped += (limited - target) ** 2 > worst
            worst = max(worst, (limited - target) ** 2)
        total += worst / 2
    assert float(loss) == pytest.approx(total / num_tokens, abs=1e-9)
    assert metrics.loss == pytest.approx(total, abs=1e-9)
    assert metrics.clipped_tokens == clipped


@pytest.mark.parametrize("clip", [None, 0.2])
def test_value_loss_passes_gradcheck(clip: float | None) -> None:
    values = row(0.1, 0.5, -0.9, 1.4, 0.35).requires_grad_()
    old_values, returns = row(0.0, 0.0, 0.0, 1.0, 0.3), row(1.0, 1.0, 1.0, 0.0, 0.2)
    mask = torch.tensor([[True, True, True, True, False]])

    def loss(v: Tensor) -> Tensor:
        return value_loss(v, old_values, returns, mask, clip=clip, num_tokens=3)[0]

    assert torch.autograd.gradcheck(loss, (values,))


def test_a_clipped_value_gets_no_gradient() -> None:
    # It moved from 0 to 0.5 on its way to 1; the limit of 0.2 makes 0.2 the worse value.
    values = row(0.5).requires_grad_()
    loss, _ = value_loss(
        values, row(0.0), row(1.0), torch.ones(1, 1, dtype=torch.bool), clip=0.2, num_tokens=1
    )
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 0.8**2)
    assert values.grad is not None
    assert float(values.grad) == 0.0


@pytest.mark.parametrize(
    ("kl", "num_completions", "coef"),
    [
        (0.1, 64, 0.05),
        (0.11, 64, 0.05 * (1 + 0.1 * 0.064)),
        (0.09, 64, 0.05 * (1 - 0.1 * 0.064)),
        (5.0, 64, 0.05 * (1 + 0.2 * 0.064)),
        (0.0, 64, 0.05 * (1 - 0.2 * 0.064)),
        (-1.0, 64, 0.05 * (1 - 0.2 * 0.064)),  # the estimator k1 can be negative
        (5.0, 5000, 0.05 * 1.2),  # more completions than the horizon correct no more than all
    ],
)
def test_adaptive_kl_worked_out_by_hand(kl: float, num_completions: int, coef: float) -> None:
    controller = AdaptiveKL(coef=0.05, target=0.1, horizon=1000)
    controller.update(kl, num_completions)
    assert controller.coef == pytest.approx(coef, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "returns", "expected"),
    [
        ([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], 1.0),
        ([2.0, 3.0, 5.0], [1.0, 2.0, 4.0], 1.0),  # a constant offset is not variance
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], 0.0),
        ([-1.0, -2.0, -3.0], [1.0, 2.0, 3.0], -3.0),
        ([0.5, 1.0, 1.5], [1.0, 2.0, 3.0], 0.75),
        ([1.0, 2.0], [3.0, 3.0], 0.0),  # nothing to explain
        ([1.0], [2.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_explained_variance_worked_out_by_hand(
    values: list[float], returns: list[float], expected: float
) -> None:
    assert explained_variance(torch.tensor(values), torch.tensor(returns)) == pytest.approx(
        expected, abs=1e-6
    )
