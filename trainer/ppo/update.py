"""One PPO step: from rewarded completions to an updated policy and its diagnostics.

`PPOUpdate.experience` computes everything that stays fixed during the step; `PPOUpdate.step` then trains policy and
critic on the mini-batches. A step that fails leaves weights and optimizers as they were before it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.config.sections import PPOConfig
from trainer.errors import NonFiniteError
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.diagnostics import LossSums, StepSums, UpdateMetrics, update_metrics
from trainer.ppo.experience import Experience, MiniBatch
from trainer.ppo.kl import AdaptiveKL
from trainer.ppo.loss_weights import LossWeights, loss_weights
from trainer.ppo.losses import PolicyMetrics, ValueMetrics, policy_loss, value_loss
from trainer.ppo.optimizers import adamw, clip, parameters_of, set_learning_rate, undone_on_failure
from trainer.ppo.scoring import make_experience
from trainer.ranks.process_group import Ranks
from trainer.ranks.shards import (
    add_gradients,
    are_divided,
    fewer_than_most,
    in_order,
    own_shards,
    taken_gradients,
)


class PPOUpdate:
    """The optimizers of policy and critic, and the KL controller; owns no weights."""

    def __init__(self, roles: PolicyRoles, config: PPOConfig, ranks: Ranks | None = None):
        """One optimizer each for the policy's adapter and for the critic.

        Args:
            roles: The roles whose weights the optimizers train.
            config: The update's settings.
            ranks: The processes that do a step together; None means this process alone.
        """
        self._roles = roles
        self._config = config
        self._ranks = ranks or Ranks()
        self.num_shards = self._ranks.size
        """The number of shards of a mini-batch; a recomputed step uses the run's number. See `trainer.ranks.shards`."""
        self.policy_optimizer = adamw(roles.adapter_parameters(Role.POLICY), config.learning_rate)
        self.critic_optimizer = adamw(roles.critic_parameters(), config.critic_learning_rate)
        self.kl = AdaptiveKL(
            coef=config.kl_coef,
            target=config.target_kl,
            horizon_steps=config.kl_horizon_steps,
        )

    def experience(
        self, groups: Sequence[Sequence[Sample]], *, seed: str, token_budget: int | None = None
    ) -> list[MiniBatch]:
        """A step's experience at the current KL coefficient; see `make_experience`.

        Args:
            groups, seed: As in `make_experience`.
            token_budget: The most tokens of a micro-batch; None means ``ppo.token_budget``.
        """
        return make_experience(
            self._roles,
            self._config,
            groups,
            kl_coef=self.kl.coef,
            seed=seed,
            token_budget=token_budget or self._config.token_budget,
            ranks=self._ranks,
            num_shards=self.num_shards,
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
            NonFiniteError: A number or a gradient is not finite; weights and optimizers are as they were before.
        """
        config, sums = self._config, StepSums()
        train_policy = train_policy or config.advantage != "gae"
        with undone_on_failure((self.policy_optimizer, self.critic_optimizer)):
            set_learning_rate(self.policy_optimizer, config.learning_rate * learning_rate_scale)
            set_learning_rate(
                self.critic_optimizer, config.critic_learning_rate * learning_rate_scale
            )
            for mini_batch in list(mini_batches) * config.num_epochs:
                self._optimizer_step(mini_batch, sums, train_policy=train_policy)
                if sums.stopped_early:
                    break
        metrics = update_metrics(
            mini_batches,
            sums,
            kl_coef=self.kl.coef,
            policy_frozen=not train_policy,
            skips_updates=config.skip_zero_advantages,
        )
        if config.adaptive_kl:
            self.kl.update(metrics.reference_kl)
        return metrics

    def _optimizer_step(self, mini_batch: MiniBatch, sums: StepSums, *, train_policy: bool) -> None:
        """Step both optimizers; if the policy has already moved too far, only set ``stopped_early``."""
        weights = loss_weights(mini_batch, self._config, train_policy=train_policy)
        gradients: dict[int, list[Tensor | None]] = {}

        def of_this_rank() -> dict[int, LossSums]:
            parts = {}
            for shard in own_shards(self._ranks, self.num_shards):
                parts[shard] = self._backward(mini_batch, shard, weights)
                if are_divided(self._ranks, self.num_shards):
                    gradients[shard] = taken_gradients(self._parameters)
            self._passes_for_others(mini_batch, weights)
            return parts

        found = LossSums()
        for part in in_order(self._ranks.gathered(of_this_rank)):
            found.add(part)
        sums.add(found)
        if sums.num_not_finite:
            # Raised only now: until here, every rank relies on the others to take part in its passes.
            raise NonFiniteError(
                f"the policy's logprobs: {sums.num_not_finite} of {weights.num_policy_tokens} are not finite"
            )
        if not sums.num_mini_batches:
            sums.logprob_lag = found.moved / max(1, weights.num_policy_tokens)
        sums.num_mini_batches += 1
        sums.num_policy_tokens += weights.num_policy_tokens
        sums.num_value_tokens += weights.num_value_tokens
        approx_kl = found.approx_kl / max(1, weights.num_policy_tokens)
        sums.approx_kl_max = max(sums.approx_kl_max, approx_kl)
        if self._config.stop_kl is not None and approx_kl > self._config.stop_kl:
            sums.stopped_early = True
            return
        if are_divided(self._ranks, self.num_shards):
            add_gradients(self._ranks, self.num_shards, self._parameters, gradients)
        critic_norm, policy_norm = self._apply_gradients()
        sums.skipped_updates += int(weights.is_skipped)
        trains_policy = weights.num_policy_tokens > 0 and not weights.is_skipped
        sums.num_optimizer_steps += int(weights.num_value_tokens > 0 or trains_policy)
        sums.critic_grad_norm += critic_norm
        sums.policy_grad_norm += policy_norm

    def _passes_for_others(self, mini_batch: MiniBatch, weights: LossWeights) -> None:
        """If ranks share passes, take part in the `_backward` passes of ranks that have more micro-batches."""
        if (passes := self._roles.shared_passes) is None:
            return
        for _ in range(fewer_than_most(self._ranks, [e.shard for e in mini_batch])):
            if weights.num_value_tokens:
                passes.of_one_token(with_gradient=True)
            if weights.num_policy_tokens:
                passes.of_one_token(with_gradient=not weights.is_skipped)

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [*parameters_of(self.critic_optimizer), *parameters_of(self.policy_optimizer)]

    def _backward(self, mini_batch: MiniBatch, shard: int, weights: LossWeights) -> LossSums:
        """Add a shard's gradients to the critic's and the policy's; returns its sums of metrics."""
        of_policy, of_value = [], []
        for e, value_weights, policy_weights in zip(
            mini_batch, weights.value, weights.policy, strict=True
        ):
            if e.shard != shard:
                continue
            if weights.num_value_tokens and e.values is not None and e.returns is not None:
                of_value.append(self._backward_value(e, e.values, e.returns, value_weights))
            if weights.num_policy_tokens:
                # Also if the update is skipped: the metrics need the loss.
                with torch.set_grad_enabled(not weights.is_skipped):
                    of_policy.append(self._backward_policy(e, policy_weights))
        sums = LossSums()
        # Only after the loop: inside it, the host would wait for the device after every pass.
        sums.add_losses(of_policy, of_value)
        return sums

    def _backward_value(
        self, e: Experience, old_values: Tensor, returns: Tensor, loss_weights: Tensor
    ) -> ValueMetrics:
        """Add a micro-batch's gradient to the critic's."""
        values = self._roles.values(e.batch)[:, :-1]
        loss, metrics = value_loss(
            values, old_values, returns, loss_weights, clip=self._config.value_clip
        )
        loss.backward()
        return metrics

    def _backward_policy(self, e: Experience, loss_weights: Tensor) -> PolicyMetrics:
        """Add a micro-batch's gradient to the policy's."""
        loss, metrics = policy_loss(
            self._roles.token_logprobs(Role.POLICY, e.batch, e.nuclei).logprobs,
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
        return metrics

    def _apply_gradients(self) -> tuple[float, float]:
        """Clip and apply both gradients; returns the norms before clipping.

        Parameters that no token trains have no gradient and stay unchanged, whatever their momentum.
        """
        optimizers = self.critic_optimizer, self.policy_optimizer
        critic_norm, policy_norm = (clip(o, self._config.max_grad_norm) for o in optimizers)
        if not math.isfinite(critic_norm + policy_norm):
            raise NonFiniteError(
                f"the norms of the gradients are {critic_norm} (critic) and {policy_norm} (policy)"
            )
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return critic_norm, policy_norm
