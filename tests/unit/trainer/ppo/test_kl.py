"""KL estimators against their definitions, and the controller of the penalty."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.config.sections import KLEstimator, PPOConfig
from trainer.ppo.kl import AdaptiveKL, kl_estimate

ESTIMATORS: tuple[KLEstimator, ...] = ("k1", "k2", "k3")


@given(st.lists(st.tuples(st.floats(-6, 0), st.floats(-6, 0)), min_size=1, max_size=8))
def test_estimators_are_schulmans(pairs: list[tuple[float, float]]) -> None:
    p, q = (np.array(side) for side in zip(*pairs, strict=True))
    r = np.exp(q) / np.exp(p)
    expected = {"k1": -np.log(r), "k2": np.log(r) ** 2 / 2, "k3": (r - 1) - np.log(r)}
    for estimator in ESTIMATORS:
        found = kl_estimate(torch.tensor(p), torch.tensor(q), estimator)
        np.testing.assert_allclose(found, expected[estimator], atol=1e-10, rtol=1e-12)


@given(st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)), min_size=2, max_size=6))
def test_k1_and_k3_are_the_kl_in_expectation_and_k2_and_k3_are_never_negative(
    masses: list[tuple[float, float]],
) -> None:
    p, q = (torch.tensor(side, dtype=torch.float64) for side in zip(*masses, strict=True))
    p, q = p / p.sum(), q / q.sum()
    kl = float((p * (p / q).log()).sum())
    k1 = kl_estimate(p.log(), q.log(), "k1")
    k2 = kl_estimate(p.log(), q.log(), "k2")
    k3 = kl_estimate(p.log(), q.log(), "k3")
    for unbiased in (k1, k3):
        assert float((p * unbiased).sum()) == pytest.approx(kl, abs=1e-10)
    for positive in (k2, k3):
        assert (positive >= -1e-12).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_pass_gradcheck(estimator: KLEstimator) -> None:
    logprobs = torch.tensor([-0.1, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([-1.1, -0.3, -1.0], dtype=torch.float64)

    def estimate(p: Tensor) -> Tensor:
        return kl_estimate(p, other, estimator)

    assert torch.autograd.gradcheck(estimate, (logprobs,))


def test_k1_as_a_reward_has_the_gradient_of_the_kl_and_the_others_have_not() -> None:
    logits = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    p = logits.log_softmax(0)
    (exact,) = torch.autograd.grad((p.exp() * (p - q)).sum(), logits, retain_graph=True)
    for estimator in ESTIMATORS:
        reward = kl_estimate(p, q, estimator).detach()
        (gradient,) = torch.autograd.grad(
            (p.exp().detach() * reward * p).sum(), logits, retain_graph=True
        )
        assert bool((gradient - exact).abs().max() < 1e-10) is (estimator == "k1")


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("difference", [-1e4, -89.0, 89.0, 1e4])
def test_no_estimate_overflows_float32(estimator: KLEstimator, difference: float) -> None:
    estimate = kl_estimate(torch.tensor([difference]), torch.zeros(1), estimator)
    assert estimate.isfinite().all()


def test_what_is_not_a_number_stays_visible() -> None:
    for estimator in ESTIMATORS:
        for number in (math.nan, math.inf, -math.inf):
            assert not kl_estimate(torch.tensor([number]), torch.zeros(1), estimator).isfinite()


@pytest.mark.parametrize(
    ("kl", "steps", "coef"),
    [
        (0.1, 10.0, 0.05),
        (0.11, 10.0, 0.05 * 1.01),
        (0.09, 10.0, 0.05 * 0.99),
        (5.0, 10.0, 0.05 * 1.02),
        (0.0, 10.0, 0.05 * 0.98),
        (-1.0, 10.0, 0.05 * 0.98),  # the estimator k1 can be negative
        (5.0, 2.5, 0.05 * 1.08),
        (5.0, 1.0, 0.05 * 1.2),
    ],
)
def test_adaptive_kl_worked_out_by_hand(kl: float, steps: float, coef: float) -> None:
    controller = AdaptiveKL(coef=0.05, target=0.1, horizon_steps=steps)
    controller.update(kl)
    assert controller.coef == pytest.approx(coef, rel=1e-12)


def test_by_default_twice_the_target_doubles_the_coefficient_in_some_tens_of_steps() -> None:
    controller = AdaptiveKL(coef=0.05, target=6.0, horizon_steps=PPOConfig().kl_horizon_steps)
    num_steps = 0
    while controller.coef < 0.1:
        controller.update(12.0)
        num_steps += 1
    assert num_steps == 36  # ln 2 / ln 1.02


def test_towards_a_target_out_of_reach_it_grows_to_twenty_times_its_start() -> None:
    controller = AdaptiveKL(coef=0.05, target=0.1, horizon_steps=10.0)
    for _ in range(1000):
        controller.update(3.0)
    assert controller.coef == pytest.approx(1.0)
    controller.update(0.0)
    assert controller.coef == pytest.approx(0.98)


def test_below_its_target_it_shrinks_to_a_twentieth_and_comes_back() -> None:
    controller = AdaptiveKL(coef=0.05, target=6.0, horizon_steps=10.0)
    for _ in range(20_000):
        controller.update(0.5)
    assert controller.coef == pytest.approx(0.0025)
    num_steps = 0
    while controller.coef < 0.05:
        controller.update(12.0)
        num_steps += 1
    assert num_steps == 152  # ln 20 / ln 1.02
