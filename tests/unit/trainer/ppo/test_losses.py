"""The losses against case analyses written out token by token in float64, and their gradients."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.config.sections import LossReduction
from trainer.ppo.diagnostics import effective_sample_size, explained_variance
from trainer.ppo.losses import (
    importance_weights,
    policy_loss,
    sequence_mask,
    token_loss_weights,
    value_loss,
)

LOW, HIGH = 0.2, 0.3


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def padding(tensor: Tensor, kept: Sequence[bool], garbage: float) -> Tensor:
    """The tensor with garbage on padding, which nothing may read."""
    return tensor.masked_fill(~torch.tensor([kept]), garbage)


def surrogate_by_hand(ratio: float, advantage: float, dual_clip: float | None) -> float:
    """What a token adds to the objective, by the sign of its advantage."""
    if advantage >= 0:
        return advantage * min(ratio, 1 + HIGH)
    bounded = max(ratio, 1 - LOW)
    if dual_clip is not None:
        bounded = min(bounded, dual_clip)
    return advantage * bounded


@st.composite
def tokens(draw: st.DrawFn) -> list[tuple[float, float, float, float, float]]:
    """For each token: current logprob, proximal logprob, advantage, importance weight, loss weight."""
    return draw(
        st.lists(
            st.tuples(
                st.floats(-4, 0),
                st.floats(-4, 0),
                st.floats(-3, 3),
                st.floats(0, 2),
                st.just(0.0) | st.floats(0.01, 1),
            ),
            min_size=1,
            max_size=8,
        )
    )


@given(
    tokens=tokens(),
    dual_clip=st.sampled_from([None, 1.5, 3.0]),
    garbage=st.sampled_from([0.0, 1e3, math.inf, -math.inf, math.nan]),
)
def test_policy_loss_is_the_surrogate_of_every_token(
    tokens: list[tuple[float, float, float, float, float]],
    dual_clip: float | None,
    garbage: float,
) -> None:
    current, proximal, advantages, weights, loss_weights = (
        list(column) for column in zip(*tokens, strict=True)
    )
    kept = [loss_weight > 0 for loss_weight in loss_weights]
    logprobs = padding(row(*current), kept, garbage).requires_grad_()

    loss, metrics = policy_loss(
        logprobs,
        padding(row(*proximal), kept, -garbage),
        padding(row(*advantages), kept, garbage),
        padding(row(*weights), kept, garbage),
        row(*loss_weights),
        clip_low=LOW,
        clip_high=HIGH,
        dual_clip=dual_clip,
    )
    loss.backward()

    total = approx_kl = 0.0
    clipped = dual_clipped = 0
    for c, p, a, w, loss_weight in tokens:
        if loss_weight == 0:
            continue
        ratio = math.exp(c - p)
        total -= loss_weight * w * surrogate_by_hand(ratio, a, dual_clip)
        approx_kl += ratio - 1 - (c - p)
        # Advantages so small that the two products round to the same number clip nothing.
        if ratio > 1 + HIGH:
            clipped += (1 + HIGH) * a < ratio * a
        elif ratio < 1 - LOW:
            clipped += (1 - LOW) * a < ratio * a
        if dual_clip is not None and a < 0:
            dual_clipped += ratio * a < dual_clip * a
    assert loss.item() == pytest.approx(total, abs=1e-10)
    assert metrics.loss == pytest.approx(total, abs=1e-10)
    assert metrics.approx_kl == pytest.approx(approx_kl, abs=1e-10)
    assert metrics.clipped_tokens == clipped
    assert metrics.dual_clipped_tokens == dual_clipped
    assert logprobs.grad is not None
    assert torch.equal(
        logprobs.grad[row(*loss_weights) == 0], torch.zeros(kept.count(False)).double()
    )
    assert logprobs.grad.isfinite().all()


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
        row(0.25),
        clip_low=LOW,
        clip_high=HIGH,
        dual_clip=3.0,
    )
    loss.backward()
    assert current.grad is not None
    expected = -0.5 * ratio * advantage / 4 if passes else 0.0
    assert float(current.grad) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_policy_loss_passes_gradcheck(dual_clip: float | None) -> None:
    ratios, advantages, _ = zip(*GRADIENTS, strict=True)
    current = row(*map(math.log, ratios)).requires_grad_()
    loss_weights = torch.full((1, len(ratios)), 1 / 7, dtype=torch.float64)
    loss_weights[0, 0] = 0
    weights = row(*np.linspace(0.1, 2.0, len(ratios)))

    def loss(logprobs: Tensor) -> Tensor:
        return policy_loss(
            logprobs,
            torch.zeros_like(logprobs),
            row(*advantages),
            weights,
            loss_weights,
            clip_low=LOW,
            clip_high=HIGH,
            dual_clip=dual_clip,
        )[0]

    assert torch.autograd.gradcheck(loss, (current,))


@pytest.mark.parametrize("advantage", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("log_ratio", [-3e4, -200.0, 200.0, 3e4])
def test_no_ratio_is_too_large_for_float32(log_ratio: float, advantage: float) -> None:
    current = torch.tensor([[log_ratio, 0.5]], requires_grad=True)
    loss, metrics = policy_loss(
        current,
        torch.zeros(1, 2),
        torch.tensor([[advantage, 1.0]]),
        torch.ones(1, 2),
        torch.full((1, 2), 0.5, dtype=torch.float64),
        clip_low=LOW,
        clip_high=HIGH,
        dual_clip=None,
    )
    loss.backward()
    assert current.grad is not None
    assert current.grad.isfinite().all()
    assert math.isfinite(metrics.loss)
    assert math.isfinite(metrics.approx_kl)
    assert metrics.approx_kl > 100  # a policy that far away is seen, and stops the step


@given(
    tokens=st.lists(
        st.tuples(
            st.floats(-3, 3),
            st.floats(-3, 3),
            st.floats(-3, 3),
            st.just(0.0) | st.floats(0.01, 1),
        ),
        min_size=1,
        max_size=8,
    ),
    clip=st.none() | st.floats(0.05, 1),
    garbage=st.sampled_from([0.0, 1e3, math.inf, math.nan]),
)
def test_value_loss_is_the_worse_of_the_moved_and_the_limited_value(
    tokens: list[tuple[float, float, float, float]], clip: float | None, garbage: float
) -> None:
    values, old_values, returns, loss_weights = (
        list(column) for column in zip(*tokens, strict=True)
    )
    kept = [loss_weight > 0 for loss_weight in loss_weights]
    moved = padding(row(*values), kept, garbage).requires_grad_()

    loss, metrics = value_loss(
        moved,
        padding(row(*old_values), kept, -garbage),
        padding(row(*returns), kept, garbage),
        row(*loss_weights),
        clip=clip,
    )
    loss.backward()

    total = 0.0
    clipped = 0
    for value, old, target, loss_weight in tokens:
        if loss_weight == 0:
            continue
        worst = (value - target) ** 2
        if clip is not None and abs(value - old) > clip:
            limited = old + math.copysign(clip, value - old)
            # Where both are equally wrong, rounding decides which is called worse.
            if abs((limited - target) ** 2 - worst) > 1e-9:
                clipped += (limited - target) ** 2 > worst
            else:
                clipped = -(10**9)
            worst = max(worst, (limited - target) ** 2)
        total += loss_weight * worst / 2
    assert loss.item() == pytest.approx(total, abs=1e-10)
    assert metrics.loss == pytest.approx(total, abs=1e-10)
    assert metrics.clipped_tokens == clipped or clipped < 0
    assert moved.grad is not None
    assert moved.grad.isfinite().all()


@pytest.mark.parametrize("clip", [None, 0.2])
def test_value_loss_passes_gradcheck(clip: float | None) -> None:
    values = row(0.1, 0.5, -0.9, 1.4, 0.35).requires_grad_()
    old_values, returns = row(0.0, 0.0, 0.0, 1.0, 0.3), row(1.0, 1.0, 1.0, 0.0, 0.2)
    loss_weights = row(0.25, 0.25, 0.25, 0.25, 0.0)

    def loss(v: Tensor) -> Tensor:
        return value_loss(v, old_values, returns, loss_weights, clip=clip)[0]

    assert torch.autograd.gradcheck(loss, (values,))


def test_a_clipped_value_gets_no_gradient() -> None:
    # It moved from 0 to 0.5 on its way to 1; the limit of 0.2 makes 0.2 the worse value.
    values = row(0.5).requires_grad_()
    loss, metrics = value_loss(values, row(0.0), row(1.0), row(1.0), clip=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 0.8**2)
    assert metrics.clipped_tokens == 1
    assert values.grad is not None
    assert float(values.grad) == 0.0


def test_a_value_within_its_limit_is_not_called_clipped_by_rounding() -> None:
    values = torch.linspace(-3, 3, 1000).unsqueeze(0)
    _, metrics = value_loss(
        values, values + 0.1, values * 0.7, torch.ones(1, 1000, dtype=torch.float64), clip=0.2
    )
    assert metrics.clipped_tokens == 0


# --- reduction -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "loss_weights"),
    [
        ("token_mean", [[1 / 6] * 3, [1 / 6] * 2, [], [1 / 6]]),
        ("sequence_mean", [[1 / 9] * 3, [1 / 6] * 2, [], [1 / 3]]),
    ],
)
def test_loss_weights_worked_out_by_hand(
    reduction: LossReduction, loss_weights: list[list[float]]
) -> None:
    masks = [
        torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.bool),
        torch.tensor([[0, 0], [1, 0]], dtype=torch.bool),
    ]
    found = [
        part[mask] for part, mask in zip(token_loss_weights(masks, reduction), masks, strict=True)
    ]
    np.testing.assert_allclose(
        torch.cat(found), [s for row in loss_weights for s in row], atol=1e-15
    )


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_a_mini_batch_without_a_token_has_no_shares(reduction: LossReduction) -> None:
    (loss_weights,) = token_loss_weights([torch.zeros(2, 3, dtype=torch.bool)], reduction)
    assert torch.equal(loss_weights, torch.zeros(2, 3, dtype=torch.float64))


@given(
    rows=st.lists(
        st.lists(st.tuples(st.floats(-3, 3), st.booleans()), min_size=1, max_size=6),
        min_size=1,
        max_size=8,
    ),
    cuts=st.sets(st.integers(1, 7)),
    reduction=st.sampled_from(["token_mean", "sequence_mean"]),
)
def test_no_cut_into_micro_batches_changes_the_mean_of_a_mini_batch(
    rows: list[list[tuple[float, bool]]], cuts: set[int], reduction: LossReduction
) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    numbers, masks = [], []
    for start, end in pairwise(edges):
        width = max(map(len, rows[start:end]))
        part = [r + [(0.0, False)] * (width - len(r)) for r in rows[start:end]]
        numbers.append(torch.tensor([[x for x, _ in r] for r in part], dtype=torch.float64))
        masks.append(torch.tensor([[kept for _, kept in r] for r in part]))

    loss_weights = token_loss_weights(masks, reduction)

    kept = [[x for x, kept in r if kept] for r in rows]
    kept = [r for r in kept if r]
    if reduction == "token_mean":
        kept = [[x for r in kept for x in r]] if kept else []
    expected = np.mean([np.mean(r) for r in kept]) if kept else 0.0
    total = sum(float((s * x).sum()) for s, x in zip(loss_weights, numbers, strict=True))
    assert total == pytest.approx(expected, abs=1e-10)


# --- importance ------------------------------------------------------------------------------------


@given(pairs=st.lists(st.tuples(st.floats(-4, 0), st.floats(-4, 0)), min_size=1, max_size=8))
def test_importance_weights_are_the_truncated_ratio_and_carry_no_gradient(
    pairs: list[tuple[float, float]],
) -> None:
    proximal = row(*(p for p, _ in pairs)).requires_grad_()
    weights = importance_weights(proximal, row(*(b for _, b in pairs)), max_weight=2.0)
    expected = [min(np.exp(p - b), 2.0) for p, b in pairs]
    np.testing.assert_allclose(weights, [expected], atol=1e-10, rtol=0)
    assert not weights.requires_grad


@pytest.mark.parametrize(("difference", "weight"), [(500.0, 2.0), (-500.0, 0.0)])
def test_importance_weights_of_ratios_that_overflow(difference: float, weight: float) -> None:
    weights = importance_weights(torch.tensor([[difference]]), torch.zeros(1, 1), max_weight=2.0)
    assert float(weights) == weight


@given(
    rows=st.lists(
        st.lists(st.tuples(st.floats(-4, 0), st.floats(-4, 0)), max_size=6), min_size=1, max_size=5
    ),
    bound=st.floats(1.01, 4),
    garbage=st.sampled_from([0.0, math.inf, math.nan]),
)
def test_sequence_mask_is_a_bound_on_the_geometric_mean_of_every_row_by_itself(
    rows: list[list[tuple[float, float]]], bound: float, garbage: float
) -> None:
    width = max(1, *map(len, rows))
    proximal, behaviour = (
        torch.tensor(
            [[pair[side] for pair in r] + [garbage] * (width - len(r)) for r in rows],
            dtype=torch.float64,
        )
        for side in (0, 1)
    )
    mask = torch.tensor([[t < len(r) for t in range(width)] for r in rows])

    kept = sequence_mask(proximal, behaviour, mask, bound=bound)

    assert kept.shape == (len(rows),)
    for found, pairs in zip(kept.tolist(), rows, strict=True):
        ratios = np.array([math.exp(p - b) for p, b in pairs] or [1.0])
        mean = float(np.prod(ratios)) ** (1 / len(ratios))
        if min(abs(mean - bound), abs(mean - 1 / bound)) > 1e-9:  # else rounding decides
            assert found is (1 / bound < mean < bound)
    # Rows and tokens that are permuted are judged as before: order is not looked at.
    assert torch.equal(
        sequence_mask(proximal.flip(0), behaviour.flip(0), mask.flip(0), bound=bound), kept.flip(0)
    )


@pytest.mark.parametrize(
    ("weights", "share"),
    [
        ([1.0, 1.0, 1.0], 1.0),
        ([0.3, 0.3], 1.0),
        ([5.0, 0.0, 0.0, 0.0], 0.25),
        ([1.0, 3.0], 16 / 20),
        ([2.0], 1.0),
        ([0.0, 0.0], 0.0),
        ([], 0.0),
    ],
)
def test_effective_sample_size_worked_out_by_hand(weights: list[float], share: float) -> None:
    assert effective_sample_size(torch.tensor(weights)) == pytest.approx(share, abs=1e-10)


@given(weights=st.lists(st.floats(0.01, 2), min_size=1, max_size=20), scale=st.floats(0.1, 10))
def test_effective_sample_size_lies_between_one_and_all_and_ignores_the_scale(
    weights: list[float], scale: float
) -> None:
    share = effective_sample_size(torch.tensor(weights, dtype=torch.float64))
    assert 1 / len(weights) - 1e-12 <= share <= 1 + 1e-12
    scaled = torch.tensor([w * scale for w in weights], dtype=torch.float64)
    assert effective_sample_size(scaled) == pytest.approx(share, rel=1e-9)


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
