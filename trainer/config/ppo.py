"""The update of policy and critic."""

from typing import Annotated, Literal

from pydantic import Field

from trainer.config.base import Section

GroupEstimator = Literal["rloo", "grpo"]
"""Estimators without a critic, by name; `trainer.ppo.advantages.GROUP_ESTIMATORS` computes them."""
AdvantageEstimator = Literal["gae", GroupEstimator]
KLEstimator = Literal["k1", "k2", "k3"]
LossReduction = Literal["token_mean", "sequence_mean"]


class PPOConfig(Section):
    """The update."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    """AdamW's, of the policy adapter."""
    critic_learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    """AdamW's, of the critic's adapter and value head."""
    learning_rate_schedule: Literal["constant", "linear"] = "constant"
    """Of both learning rates: constant, or linear to zero over run.num_steps."""
    critic_warmup_steps: Annotated[int, Field(ge=0)] = 2
    """Steps that train the critic alone before the policy moves; ignored without a critic."""
    num_epochs: Annotated[int, Field(ge=1)] = 1
    """Passes over a step's completions."""
    questions_per_mini_batch: Annotated[int, Field(ge=1)] = 4
    """Questions of one optimizer step."""
    token_budget: Annotated[int, Field(ge=1)] = 8192
    """Most tokens of one forward pass, counting padding, and counting a prefix that completions share
    once. Bounds memory; does not change the gradient."""
    advantage: AdvantageEstimator = "gae"
    """Advantage estimator: gae uses the critic. rloo and grpo need none: they compare a completion with
    the others of its question, rloo with their mean, grpo in units of their standard deviation."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """GAE's discount."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 0.95
    """GAE's λ."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """How far the ratio may fall below 1 before the gradient stops."""
    clip_high: Annotated[float, Field(gt=0)] = 0.2
    """How far the ratio may rise above 1; more than clip_low keeps exploration alive."""
    dual_clip: Annotated[float, Field(gt=1)] | None = 3.0
    """Bounds the loss of tokens with negative advantage and a huge ratio."""
    value_clip: Annotated[float, Field(gt=0)] | None = 0.2
    """How far the critic may move a value in one step."""
    max_importance_weight: Annotated[float, Field(ge=1)] = 2.0
    """Cap on the importance ratio proximal/behaviour, which corrects for differences between the
    trainer's and the server's logprobs."""
    sequence_mask: Annotated[float, Field(gt=1)] | None = None
    """Leaves a completion out of the policy loss where the geometric mean of its proximal/behaviour
    ratios is outside [1/c, c]."""
    loss_reduction: LossReduction = "token_mean"
    """Both losses: the mean over the mini-batch's tokens, or the mean of its completions' means."""
    whiten_advantages: bool = True
    """Normalise GAE's advantages over the step's tokens; rloo and grpo have a scale of their own."""
    truncation: Literal["bootstrap", "mask"] = "bootstrap"
    """Truncated completions: bootstrapped by the critic (rloo and grpo have none and take the reward as
    it is), or left out of the losses and of the comparison with other completions."""
    kl_coef: Annotated[float, Field(ge=0)] = 0.05
    """Coefficient of the KL penalty to the reference: its start, or its value where adaptive_kl is off."""
    kl_estimator: KLEstimator = "k1"
    """Schulman's estimator of a token's KL. k1 penalises the KL itself; k2 and k3 have less variance, but
    as a reward their gradient is not the KL's."""
    adaptive_kl: bool = True
    """Adapt the coefficient so that the KL of a completion stays near target_kl."""
    target_kl: Annotated[float, Field(gt=0)] = 0.1
    """KL to the reference, in nats per completion, that the adaptive coefficient aims at."""
    kl_horizon: Annotated[int, Field(ge=1)] = 10_000
    """Completions over which the adaptive coefficient corrects an error."""
    stop_kl: Annotated[float, Field(gt=0)] | None = None
    """Ends a step early: the first mini-batch on which the policy has moved by more nats per token is not
    applied, nor is any after it."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this norm."""
    max_logprob_mismatch: Annotated[float, Field(gt=0)] | None = None
    """Mean |trainer - server| logprob on tokens of one version above which the run stops: the server
    does not serve what was pushed. Null is 0.005 where both sides compute in float32, else 0.05."""
