"""The update of policy and critic."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from inference_server.wire.settings.model import SettingsModel

GroupEstimator = Literal["rloo", "grpo"]
"""Estimators without a critic, by name; `trainer.ppo.advantages.GROUP_ESTIMATORS` computes them."""
AdvantageEstimator = Literal["gae", GroupEstimator]
KLEstimator = Literal["k1", "k2", "k3"]
LossReduction = Literal["token_mean", "sequence_mean"]


class PPOConfig(SettingsModel):
    """The update of policy and critic."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Learning rate of AdamW for the policy adapter. LoRA takes some ten times the rate of full fine-tuning. (The
    original recipe has 5e-6.)"""
    critic_learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """Learning rate of AdamW for the critic's adapter and value head."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """Schedule of both learning rates: constant, or linear to zero over run.num_steps. If a run is given more steps
    later, it goes on with the rate of the longer schedule."""
    learning_rate_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Number of first steps over which both learning rates rise linearly to their values."""
    critic_warmup_steps: Annotated[int, Field(ge=0)] = 2
    """Number of first steps that train only the critic, before the policy moves; ignored without a critic."""
    critic_rollouts: Path | None = None
    """File of rollouts to which the critic is fitted before the first step: from `collect` with the starting
    policy, or from a run. critic_warmup_steps can then be 0, which saves the rollouts of these steps. Null starts the
    critic at zero."""
    critic_pretrain_epochs: Annotated[int, Field(ge=1)] = 4
    """Most passes over critic_rollouts. The critic of the pass with the best held-out explained variance
    is kept."""
    critic_pretrain_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Learning rate of AdamW while the critic is fitted to critic_rollouts; null takes critic_learning_rate."""
    num_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over a step's completions."""
    questions_per_mini_batch: Annotated[int, Field(ge=1)] = 4
    """Questions of one optimizer step."""
    token_budget: Annotated[int, Field(ge=1)] = 8192
    """Most tokens of one forward pass. Padding counts, and a prefix that completions share counts once. It limits
    memory and does not change the gradient."""
    advantage: AdvantageEstimator = "gae"
    """Advantage estimator. gae uses the critic. rloo and grpo need none: they compare a completion with
    the others of its question, rloo with their mean, grpo in units of their standard deviation."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount factor of GAE."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """λ of GAE for the policy's advantages. If completions have hundreds of tokens, no reward reaches the first
    tokens with 0.95: set 1, or length_adaptive_alpha."""
    length_adaptive_alpha: Annotated[float, Field(gt=0)] | None = None
    """If set, replaces gae_lambda: a completion of n tokens gets λ = 1 - 1/(α·n), at least 0. VAPO's α is
    0.05. (arXiv 2504.05118.)"""
    critic_gae_lambda: Annotated[float, Field(ge=0, le=1)] | None = 1.0
    """λ of GAE for the critic's returns; 1 fits the critic to the rewards themselves. Null takes the policy's λ."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far the ratio may fall below 1 before the gradient stops."""
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """How far the ratio may rise above 1; more than clip_low keeps exploration alive."""
    dual_clip: Annotated[float, Field(gt=1)] | None = 3.0
    """Dual clip: the bound, in multiples of the advantage, of the loss of a token with negative advantage and a large
    ratio; null for no bound."""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    """How far the critic may move a value in one step; null for no limit."""
    max_importance_weight: Annotated[float, Field(ge=1)] = 2.0
    """Cap on the importance ratio proximal/behaviour, which corrects for differences between the
    trainer's and the server's logprobs."""
    sequence_mask: Annotated[float, Field(gt=1)] | None = None
    """If set to c, a completion is left out of the policy loss if the geometric mean of its proximal/behaviour
    ratios is outside [1/c, c]."""
    loss_reduction: LossReduction = "token_mean"
    """How both losses are averaged: over the mini-batch's tokens, or over its completions' means."""
    whiten_advantages: bool = True
    """Normalise GAE's advantages over the step's tokens; rloo and grpo have a scale of their own."""
    skip_zero_advantages: bool = True
    """Skip computation that teaches nothing. With rloo and grpo without a KL penalty, groups of equal rewards are left
    out. A mini-batch whose advantages are all zero leaves the policy as it is, though momentum would move it. The
    critic still trains."""
    truncation: Literal["bootstrap", "mask"] = "bootstrap"
    """What happens to truncated completions. `bootstrap`: the critic's value at the end replaces their own reward (such
    as that of a wrong answer, or the length penalty); rloo and grpo, which have no critic, use the reward as it is.
    `mask`: they are left out of the losses and of the comparison with other completions. If nearly all answers are
    wrong, `bootstrap` can teach the policy to run into the limit; `mask` does not."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    """Coefficient of the KL penalty to the reference: the first value with adaptive_kl, or else the constant value.
    With 0 there is no penalty, and the KL is still measured."""
    kl_estimator: KLEstimator = "k1"
    """Schulman's estimator of a token's KL. k1 penalises the KL itself; k2 and k3 have less variance, but
    as a reward their gradient is not the KL's."""
    adaptive_kl: bool = True
    """Adapt the coefficient so that the KL of a completion stays near target_kl. The coefficient stays between
    a twentieth of kl_coef and twenty times kl_coef."""
    target_kl: Annotated[float, Field(gt=0)] = 0.1
    """KL to the reference, in nats per completion, that the adaptive coefficient aims at."""
    kl_horizon_steps: Annotated[float, Field(ge=1)] = 10.0
    """Steps over which the adaptive coefficient corrects an error. In one step it moves by at most 0.2 divided by this
    number: with 10 by 2 %, so a KL far above target_kl doubles it in 35 steps. (K = 0.1 in arXiv 1909.08593, section
    2.2.)"""
    stop_kl: Annotated[float, Field(gt=0)] | None = None
    """Ends a step early: the first mini-batch on which the policy has moved by more than this many nats per token is
    not applied, nor is any after it."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Larger gradients are scaled down to this norm."""
    max_logprob_mismatch: Annotated[float, Field(gt=0)] | None = None
    """The run stops if the mean |trainer - server| logprob on tokens of one version is above this: the server then
    does not serve what was pushed. Null is 8 times the usual noise of the run's own versions."""

    @property
    def rollouts_of_critic(self) -> Path | None:
        """The file that a new run's critic is fitted to; None if none is named or there is no critic."""
        return self.critic_rollouts if self.advantage == "gae" else None
