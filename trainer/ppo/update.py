"""One PPO step: from rewarded completions to an updated policy and its diagnostics.

`PPOUpdate.experience` computes everything that stays fixed; `PPOUpdate.step` then trains policy and
critic on its mini-batches. A step that fails leaves weights and optimizers as they were before it.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from trainer.config.sections import PPOConfig
from trainer.errors import NonFiniteError
from trainer.model.batch import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.diagnostics import UpdateMetrics, UpdateSums, update_metrics
from trainer.ppo.experience import (
    Experience,
    MiniBatch,
    has_signal,
    require_finite,
)
from trainer.ppo.kl import AdaptiveKL
from trainer.ppo.losses import policy_loss, token_loss_weights, value_loss
from trainer.ppo.scoring import make_experience


class PPOUpdate:
    """Policy and critic optimizers with the KL controller; owns no weights."""

    def __init__(self, roles: PolicyRoles, config: PPOConfig):
        """One optimizer each for the policy's adapter and for the critic."""
        self._roles = roles
        self._config = config
        self.policy_optimizer = _optimizer(
            roles.adapter_parameters(Role.POLICY), config.learning_rate
        )
        self.critic_optimizer = _optimizer(roles.critic_parameters(), config.critic_learning_rate)
        self.kl = AdaptiveKL(
            coef=config.kl_coef,
            target=config.target_kl,
            horizon=config.kl_horizon,
            horizon_steps=config.kl_horizon_steps,
        )

    @property
    def _has_critic(self) -> bool:
        return self._config.advantage == "gae"

    def experience(
        self, groups: Sequence[Sequence[Sample]], *, seed: str, token_budget: int | None = None
    ) -> list[MiniBatch]:
        """A step's experience at the current KL coefficient; see `make_experience`.

        Args:
            groups, seed: As there.
            token_budget: The most tokens of a micro-batch; None takes ``ppo.token_budget``.
        """
        return make_experience(
            self._roles,
            self._config,
            groups,
            kl_coef=self.kl.coef,
            seed=seed,
            token_budget=token_budget or self._config.token_budget,
        )

    def step(
        self,
        mini_batches: Sequence[MiniBatch],
        *,
        train_policy: bool,
        learning_rate_scale: float = 1.0,
    ) -> UpdateMetrics:
        """Train the critic and, after the critic's warm-up, the policy on the mini-batches.

        With ``ppo.stop_kl``, a mini-batch on which the policy has already moved too far ends the
        step and is applied neither to the policy nor to the critic.

        Args:
            mini_batches: The step's experience.
            train_policy: False trains only the critic; without a critic the policy always trains.
            learning_rate_scale: Factor on both learning rates in this step.

        Raises:
            NonFiniteError: A number or a gradient is not finite. Weights and optimizers are as they
                were before the step, even if earlier mini-batches had changed them.
        """
        config, sums, stopped = self._config, UpdateSums(), False
        train_policy = train_policy or not self._has_critic
        with self._undone_on_failure():
            for optimizer, learning_rate in (
                (self.policy_optimizer, config.learning_rate),
                (self.critic_optimizer, config.critic_learning_rate),
            ):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * learning_rate_scale
            for mini_batch in list(mini_batches) * config.num_epochs:
                stopped = self._optimizer_step(mini_batch, sums, train_policy=train_policy)
                if stopped:
                    break
        metrics = update_metrics(mini_batches, sums, kl_coef=self.kl.coef)
        if config.adaptive_kl:
            num_completions = sum(len(e.batch.indices) for m in mini_batches for e in m)
            self.kl.update(metrics.reference_kl, num_completions)
        return replace(
            metrics,
            stopped_early=stopped,
            policy_frozen=not train_policy,
            skipped_updates=sums.skipped_updates if config.skip_zero_advantages else math.nan,
        )

    def _optimizer_step(
        self, mini_batch: MiniBatch, sums: UpdateSums, *, train_policy: bool
    ) -> bool:
        """One step of both optimizers; True, and no step, if the policy has moved too far already."""
        num_policy_tokens = num_value_tokens = 0
        if train_policy:
            num_policy_tokens = sum(int(e.policy_mask.sum()) for e in mini_batch)
        if self._has_critic:
            num_value_tokens = sum(int(e.loss_mask.sum()) for e in mini_batch)
        reduction = self._config.loss_reduction
        value_weights = token_loss_weights([e.loss_mask for e in mini_batch], reduction)
        policy_weights = token_loss_weights([e.policy_mask for e in mini_batch], reduction)
        is_skipped = (
            num_policy_tokens > 0
            and self._config.skip_zero_advantages
            and not has_signal(mini_batch, self._config)
        )
        approx_kl = 0.0
        for i, e in enumerate(mini_batch):
            if num_value_tokens:
                self._backward_value(e, value_weights[i], sums)
            if num_policy_tokens:
                # Where it is skipped, too, for the metrics.
                with torch.set_grad_enabled(not is_skipped):
                    approx_kl += self._backward_policy(
                        e, policy_weights[i], num_policy_tokens, sums
                    )
        sums.num_mini_batches += 1
        sums.num_policy_tokens += num_policy_tokens
        sums.num_value_tokens += num_value_tokens
        sums.approx_kl += approx_kl
        approx_kl /= max(1, num_policy_tokens)
        sums.approx_kl_max = max(sums.approx_kl_max, approx_kl)
        if self._config.stop_kl is not None and approx_kl > self._config.stop_kl:
            return True
        critic_norm, policy_norm = self._apply_gradients()
        sums.skipped_updates += int(is_skipped)
        trains_policy = num_policy_tokens > 0 and not is_skipped
        sums.num_optimizer_steps += int(num_value_tokens > 0 or trains_policy)
        sums.critic_grad_norm += critic_norm
        sums.policy_grad_norm += policy_norm
        return False

    def _backward_value(self, e: Experience, loss_weights: Tensor, sums: UpdateSums) -> None:
        """Add a micro-batch's gradient to the critic's."""
        if e.values is None or e.returns is None:
            return
        values = self._roles.values(e.batch)[:, :-1]
        loss, metrics = value_loss(
            values, e.values, e.returns, loss_weights, clip=self._config.value_clip
        )
        loss.backward()
        sums.value_loss += metrics.loss
        sums.clipped_values += metrics.clipped_tokens

    def _backward_policy(
        self, e: Experience, loss_weights: Tensor, num_tokens: int, sums: UpdateSums
    ) -> float:
        """Add a micro-batch's gradient to the policy's; returns its sum of approximate KL."""
        logprobs = self._roles.token_logprobs(Role.POLICY, e.batch, e.nucleus_mask).logprobs
        require_finite("the policy's logprobs", logprobs[e.policy_mask])
        if not sums.num_mini_batches:
            moved = (logprobs.detach() - e.proximal_logprobs).abs()[e.policy_mask]
            sums.logprob_lag += float(moved.sum()) / num_tokens
        loss, metrics = policy_loss(
            logprobs,
            e.proximal_logprobs,
            e.advantages,
            e.importance_weights,
            loss_weights,
            clip_low=self._config.clip_low,
            clip_high=self._config.clip_high,
            dual_clip=self._config.dual_clip,
        )
        if loss.requires_grad:
            loss.backward()
        sums.policy_loss += metrics.loss
        sums.clipped_tokens += metrics.clipped_tokens
        sums.dual_clipped_tokens += metrics.dual_clipped_tokens
        return metrics.approx_kl

    def _apply_gradients(self) -> tuple[float, float]:
        """Clip and apply both gradients; returns the norms before clipping.

        Parameters that no token trains have no gradient and stay unchanged, whatever their momentum.
        """
        optimizers = self.critic_optimizer, self.policy_optimizer
        critic_norm, policy_norm = map(self._clip, optimizers)
        if not math.isfinite(critic_norm + policy_norm):
            raise NonFiniteError(
                f"the norms of the gradients are {critic_norm} (critic) and {policy_norm} (policy)"
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return critic_norm, policy_norm

    def _clip(self, optimizer: torch.optim.Optimizer) -> float:
        return float(
            torch.nn.utils.clip_grad_norm_(_parameters(optimizer), self._config.max_grad_norm)
        )

    @contextmanager
    def _undone_on_failure(self) -> Iterator[None]:
        """Restore weights and optimizers if the step fails after some of its mini-batches.

        Costs a copy of the adapters and their moments, which are small beside the base.
        """
        saved = [
            (optimizer, [p.detach().clone() for p in _parameters(optimizer)], state)
            for optimizer in (self.policy_optimizer, self.critic_optimizer)
            for state in [deepcopy(optimizer.state_dict())]
        ]
        try:
            yield
        except BaseException:
            for optimizer, weights, state in saved:
                with torch.no_grad():
                    for parameter, weight in zip(_parameters(optimizer), weights, strict=True):
                        parameter.copy_(weight)
                optimizer.load_state_dict(state)
            raise
        finally:
            for optimizer, _, _ in saved:
                optimizer.zero_grad(set_to_none=True)


def _optimizer(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW in one pass over all parameters: an adapter is many small tensors."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
