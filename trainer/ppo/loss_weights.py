"""How much each token of a mini-batch counts in the losses of policy and critic."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from trainer.config.sections import PPOConfig
from trainer.ppo.experience import MiniBatch, has_signal
from trainer.ppo.losses import token_loss_weights, total


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Loss weights of a mini-batch's tokens; the counts cover the whole mini-batch, whichever ranks compute it."""

    policy: Sequence[Tensor]
    """[B, C] for each micro-batch; see `token_loss_weights`."""
    value: Sequence[Tensor]
    num_policy_tokens: int
    num_value_tokens: int
    is_skipped: bool
    """Whether no token has an advantage, so that the policy stays as it is (``ppo.skip_zero_advantages``)."""


def loss_weights(mini_batch: MiniBatch, config: PPOConfig, *, train_policy: bool) -> LossWeights:
    """The weights of a mini-batch's tokens.

    Args:
        mini_batch: All of its micro-batches.
        config: The update's settings.
        train_policy: If false, no token counts as training the policy.
    """
    num_policy_tokens = num_value_tokens = 0
    if train_policy:
        num_policy_tokens = total([e.policy_mask for e in mini_batch])
    if config.advantage == "gae":
        num_value_tokens = total([e.loss_mask for e in mini_batch])
    return LossWeights(
        policy=token_loss_weights([e.policy_mask for e in mini_batch], config.loss_reduction),
        value=token_loss_weights([e.loss_mask for e in mini_batch], config.loss_reduction),
        num_policy_tokens=num_policy_tokens,
        num_value_tokens=num_value_tokens,
        is_skipped=num_policy_tokens > 0
        and config.skip_zero_advantages
        and not has_signal(mini_batch, config),
    )
