"""One PPO step: scored completions in, a moved policy and its diagnostics out.

`experience` fixes what the update is measured against (proximal and reference logprobs, values,
advantages); `PPOUpdate.step` then moves policy and critic over mini-batches.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from trainer.advantages import generalized_advantages, token_rewards, whiten
from trainer.batch import MicroBatch, Sample, micro_batches
from trainer.config import PPOConfig
from trainer.errors import NonFiniteError
from trainer.losses import (
    AdaptiveKL,
    explained_variance,
    importance_weights,
    policy_loss,
    value_loss,
)
from trainer.policy import PolicyRoles, Role
from trainer.token_scores import Nucleus


@dataclass(frozen=True, kw_only=True)
class Experience:
    """A micro-batch with everything that stays fixed during an update; tensors are [B, C]."""

    batch: MicroBatch
    support: tuple[Nucleus, ...]
    """The proximal policy's nuclei; see `trainer.token_scores`."""
    proximal_logprobs: Tensor
    reference_logprobs: Tensor
    weights: Tensor
    """Truncated importance weights, proximal over behaviour."""
    entropy: Tensor
    values: Tensor
    returns: Tensor
    advantages: Tensor
    """Whitened over the step, where asked for."""
    loss_mask: Tensor
    """Tokens that train: completion tokens, less those of truncated completions if masked."""


MiniBatch = list[Experience]
"""The micro-batches of one optimizer step."""


@dataclass(frozen=True, kw_only=True)
class UpdateMetrics:
    """Diagnostics of one step; means are over completion tokens unless the name says otherwise."""

    policy_loss: float
    value_loss: float
    approx_kl: float
    """How far this update moved the policy, nats a token."""
    clip_fraction: float
    value_clip_fraction: float
    entropy: float
    reference_kl: float
    """KL to the reference, nats a completion."""
    kl_coef: float
    explained_variance: float
    advantage_mean: float
    advantage_std: float
    value_mean: float
    return_mean: float
    importance_weight_mean: float
    logprob_mismatch: float
    """Mean |trainer - server| logprob of the sampled tokens under the version that sampled them."""
    logprob_mismatch_max: float
    policy_grad_norm: float
    critic_grad_norm: float
    num_optimizer_steps: int
    stopped_early: bool
    policy_frozen: bool
    """True in the critic's warm-up steps."""

    def to_json(self) -> dict[str, float]:
        """The fields under ``ppo/`` names."""
        return {f"ppo/{name}": float(value) for name, value in asdict(self).items()}


@dataclass
class _Sums:
    """What micro-batches add up to over a step."""

    policy_loss: float = 0.0
    value_loss: float = 0.0
    approx_kl: float = 0.0
    clipped_tokens: float = 0.0
    clipped_values: float = 0.0
    num_tokens: int = 0
    policy_grad_norm: float = 0.0
    critic_grad_norm: float = 0.0
    num_optimizer_steps: int = 0


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
            coef=config.kl_coef, target=config.target_kl, horizon=config.kl_horizon
        )

    @torch.no_grad()
    def experience(self, groups: Sequence[Sequence[Sample]], *, seed: str) -> list[MiniBatch]:
        """Score a step's samples under proximal policy, reference and critic.

        The proximal role must hold the version that generated the samples.

        Args:
            groups: The samples of each question.
            seed: Decides which questions share a mini-batch.

        Raises:
            NonFiniteError: A number of the samples, or one made from them, is NaN or infinite.
        """
        config = self._config
        order = list(range(len(groups)))
        random.Random(seed).shuffle(order)
        mini_batches: list[MiniBatch] = []
        for start in range(0, len(order), config.questions_per_mini_batch):
            chosen = order[start : start + config.questions_per_mini_batch]
            samples = [sample for i in chosen for sample in groups[i]]
            mini_batches.append(
                [
                    self._experience(batch)
                    for batch in micro_batches(
                        samples,
                        token_budget=config.token_budget,
                        hidden_size=self._roles.hidden_size,
                        device=self._roles.device,
                    )
                ]
            )
        _check_finite(mini_batches)
        return _whitened(mini_batches) if config.whiten_advantages else mini_batches

    def _experience(self, batch: MicroBatch) -> Experience:
        config = self._config
        proximal = self._roles.score(Role.PROXIMAL, batch)
        reference = self._roles.score(Role.REFERENCE, batch, proximal.support)
        values = self._roles.values(batch)
        after_last = values.gather(1, batch.mask.sum(dim=1, keepdim=True)).squeeze(1)
        values = values[:, :-1] * batch.mask
        estimate = generalized_advantages(
            token_rewards(
                batch.rewards,
                proximal.logprobs,
                reference.logprobs,
                batch.mask,
                batch.terminal,
                kl_coef=self.kl.coef,
            ),
            values,
            batch.mask,
            torch.where(batch.terminal, 0.0, after_last),
            gamma=config.gamma,
            lam=config.gae_lambda,
        )
        mask = batch.mask
        if config.truncation == "mask":
            mask = mask & batch.terminal.unsqueeze(1)
        return Experience(
            batch=batch,
            support=proximal.support,
            proximal_logprobs=proximal.logprobs,
            reference_logprobs=reference.logprobs,
            weights=importance_weights(
                proximal.logprobs, batch.sampler_logprobs, max_weight=config.max_importance_weight
            ),
            entropy=proximal.entropy,
            values=values,
            returns=estimate.returns,
            advantages=estimate.advantages,
            loss_mask=mask,
        )

    def step(
        self,
        mini_batches: Sequence[MiniBatch],
        *,
        train_policy: bool,
        learning_rate_scale: float = 1.0,
    ) -> UpdateMetrics:
        """Move critic and (unless it is still warming up) policy over the mini-batches.

        Args:
            mini_batches: The step's experience.
            train_policy: False trains the critic alone.
            learning_rate_scale: Factor on both learning rates in this step.

        Raises:
            NonFiniteError: A gradient is not finite; that optimizer step was not taken.
        """
        config, sums, stopped = self._config, _Sums(), False
        for optimizer, learning_rate in (
            (self.policy_optimizer, config.learning_rate),
            (self.critic_optimizer, config.critic_learning_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * learning_rate_scale
        for _ in range(config.num_epochs):
            for mini_batch in mini_batches:
                approx_kl = self._optimizer_step(mini_batch, sums, train_policy=train_policy)
                stopped = config.stop_kl is not None and approx_kl > config.stop_kl
                if stopped:
                    break
            if stopped:
                break
        metrics = _metrics(mini_batches, sums, kl_coef=self.kl.coef)
        if config.adaptive_kl:
            num_completions = sum(len(e.batch.indices) for m in mini_batches for e in m)
            self.kl.update(metrics.reference_kl, num_completions)
        return replace(metrics, stopped_early=stopped, policy_frozen=not train_policy)

    def _optimizer_step(self, mini_batch: MiniBatch, sums: _Sums, *, train_policy: bool) -> float:
        """One step of both optimizers; returns how far the policy is from proximal, nats a token."""
        config, roles = self._config, self._roles
        num_tokens = max(1, sum(int(e.loss_mask.sum()) for e in mini_batch))
        approx_kl = 0.0
        for e in mini_batch:
            loss, critic = value_loss(
                roles.values(e.batch)[:, :-1],
                e.values,
                e.returns,
                e.loss_mask,
                clip=config.value_clip,
                num_tokens=num_tokens,
            )
            loss.backward()  # type: ignore[no-untyped-call]
            sums.value_loss += critic.loss
            sums.clipped_values += critic.clipped_tokens
            if not train_policy:
                continue
            loss, policy = policy_loss(
                roles.score(Role.POLICY, e.batch, e.support).logprobs,
                e.proximal_logprobs,
                e.advantages,
                e.weights,
                e.loss_mask,
                clip_low=config.clip_low,
                clip_high=config.clip_high,
                dual_clip=config.dual_clip,
                num_tokens=num_tokens,
            )
            loss.backward()  # type: ignore[no-untyped-call]
            sums.policy_loss += policy.loss
            sums.clipped_tokens += policy.clipped_tokens
            approx_kl += policy.approx_kl
        sums.num_tokens += num_tokens
        sums.num_optimizer_steps += 1
        sums.approx_kl += approx_kl
        critic_norm, policy_norm = self._apply_gradients(train_policy=train_policy)
        sums.critic_grad_norm += critic_norm
        sums.policy_grad_norm += policy_norm
        return approx_kl / num_tokens

    def _apply_gradients(self, *, train_policy: bool) -> tuple[float, float]:
        """Clip and apply both gradients, or neither; returns the norms before clipping."""
        optimizers = [self.critic_optimizer]
        if train_policy:
            optimizers.append(self.policy_optimizer)
        try:
            norms = [self._clip(optimizer) for optimizer in optimizers]
            if not all(map(math.isfinite, norms)):
                raise NonFiniteError(
                    f"gradient norms are {norms} (critic, policy); the weights are unchanged"
                )
            for optimizer in optimizers:
                optimizer.step()
        finally:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
        return norms[0], norms[1] if train_policy else 0.0

    def _clip(self, optimizer: torch.optim.Optimizer) -> float:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return float(torch.nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm))


def _optimizer(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW in one pass over all parameters: an adapter is many small tensors."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)


def _flat(mini_batches: Sequence[MiniBatch], field: str) -> Tensor:
    """One field of every experience over the tokens that were sampled, [N]."""
    return torch.cat([getattr(e, field)[e.batch.mask] for m in mini_batches for e in m])


def _check_finite(mini_batches: Sequence[MiniBatch]) -> None:
    """Find what is not a number before it reaches an optimizer, and say where it comes from."""
    for field in ("proximal_logprobs", "reference_logprobs", "weights", "values", "returns"):
        values = _flat(mini_batches, field)
        if num_bad := int((~values.isfinite()).sum()):
            raise NonFiniteError(
                f"{field} of {num_bad} of {values.numel()} tokens are not finite; nothing was trained"
            )


def _whitened(mini_batches: Sequence[MiniBatch]) -> list[MiniBatch]:
    """The same with advantages whitened over the tokens of the whole step."""
    everything = [e for mini_batch in mini_batches for e in mini_batch]
    whitened = iter(whiten([e.advantages for e in everything], [e.loss_mask for e in everything]))
    return [
        [replace(e, advantages=next(whitened)) for e in mini_batch] for mini_batch in mini_batches
    ]


def _metrics(mini_batches: Sequence[MiniBatch], sums: _Sums, *, kl_coef: float) -> UpdateMetrics:
    proximal = _flat(mini_batches, "proximal_logprobs")
    reference = _flat(mini_batches, "reference_logprobs")
    sampler = torch.cat([e.batch.sampler_logprobs[e.batch.mask] for m in mini_batches for e in m])
    values, returns = _flat(mini_batches, "values"), _flat(mini_batches, "returns")
    advantages = _flat(mini_batches, "advantages")
    mismatch = (proximal - sampler).abs()
    num_completions = sum(len(e.batch.indices) for m in mini_batches for e in m)
    num_steps = max(1, sums.num_optimizer_steps)
    num_tokens = max(1, sums.num_tokens)
    return UpdateMetrics(
        policy_loss=sums.policy_loss / num_tokens,
        value_loss=sums.value_loss / num_tokens,
        approx_kl=sums.approx_kl / num_tokens,
        clip_fraction=sums.clipped_tokens / num_tokens,
        value_clip_fraction=sums.clipped_values / num_tokens,
        entropy=float(_flat(mini_batches, "entropy").mean()),
        reference_kl=float((proximal - reference).sum()) / num_completions,
        kl_coef=kl_coef,
        explained_variance=explained_variance(values, returns),
        advantage_mean=float(advantages.mean()),
        advantage_std=float(advantages.std()),
        value_mean=float(values.mean()),
        return_mean=float(returns.mean()),
        importance_weight_mean=float(_flat(mini_batches, "weights").mean()),
        logprob_mismatch=float(mismatch.mean()),
        logprob_mismatch_max=float(mismatch.max()),
        policy_grad_norm=sums.policy_grad_norm / num_steps,
        critic_grad_norm=sums.critic_grad_norm / num_steps,
        num_optimizer_steps=sums.num_optimizer_steps,
        stopped_early=False,
        policy_frozen=False,
    )
