"""One PPO step: scored completions in, a moved policy and its diagnostics out.

`experience` fixes what the update is measured against (proximal and reference logprobs, values,
advantages); `PPOUpdate.step` then moves policy and critic over mini-batches.
"""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from trainer.advantages import (
    generalized_advantages,
    group_advantages,
    token_rewards,
    whiten,
)
from trainer.batch import MicroBatch, Sample, micro_batches
from trainer.config import PPOConfig
from trainer.errors import NonFiniteError
from trainer.kl import AdaptiveKL, kl_estimate
from trainer.losses import (
    effective_sample_size,
    explained_variance,
    importance_weights,
    policy_loss,
    sequence_mask,
    token_shares,
    value_loss,
)
from trainer.policy import PolicyRoles, Role


@dataclass(frozen=True, kw_only=True)
class Experience:
    """A micro-batch with everything that stays fixed during an update; tensors are [B, C]."""

    batch: MicroBatch
    support: Tensor | None
    """The proximal policy's nucleus, [N, V]; see `trainer.policy.nucleus`."""
    proximal_logprobs: Tensor
    reference_logprobs: Tensor
    reference_kl: Tensor
    """Estimates of each token's KL(proximal ‖ reference), by ``ppo.kl_estimator``."""
    weights: Tensor
    """Truncated importance weights, proximal over behaviour."""
    entropy: Tensor
    values: Tensor | None
    """None without a critic, as are the returns."""
    returns: Tensor | None
    advantages: Tensor
    """Whitened over the step, where asked for."""
    loss_mask: Tensor
    """Tokens that train: completion tokens, less those of truncated completions if masked."""
    policy_mask: Tensor
    """Tokens that train the policy: those, less the completions outside ``ppo.sequence_mask``."""


MiniBatch = list[Experience]
"""The micro-batches of one optimizer step."""


@dataclass(frozen=True, kw_only=True)
class UpdateMetrics:
    """Diagnostics of one step; means are over completion tokens unless the name says otherwise.

    What is of the critic is NaN where there is none.
    """

    policy_loss: float
    """As it is minimised: the mean over mini-batches."""
    value_loss: float
    approx_kl: float
    """How far the policy was from the version that generated, nats a token: the mean over the
    mini-batches, each before its own optimizer step."""
    approx_kl_max: float
    """The same of the mini-batch where it was largest; with ``ppo.stop_kl``, how far it overshot."""
    clip_fraction: float
    dual_clip_fraction: float
    value_clip_fraction: float
    entropy: float
    reference_kl: float
    """KL to the reference by ``ppo.kl_estimator``, nats a completion."""
    kl_coef: float
    explained_variance: float
    advantage_mean: float
    advantage_std: float
    value_mean: float
    return_mean: float
    importance_weight_mean: float
    effective_sample_size: float
    """Of the importance weights, as a share of the tokens."""
    sequence_masked: float
    """Share of the completions that ``ppo.sequence_mask`` left out of the policy loss."""
    logprob_mismatch: float
    """Mean |trainer - server| logprob of the sampled tokens under the version that sampled them."""
    logprob_mismatch_max: float
    policy_grad_norm: float
    critic_grad_norm: float
    num_optimizer_steps: int
    """Mini-batches that were applied."""
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
    approx_kl_max: float = 0.0
    clipped_tokens: int = 0
    dual_clipped_tokens: int = 0
    clipped_values: int = 0
    num_policy_tokens: int = 0
    num_value_tokens: int = 0
    num_mini_batches: int = 0
    policy_grad_norm: float = 0.0
    critic_grad_norm: float = 0.0
    num_optimizer_steps: int = 0


class PPOUpdate:
    """Policy and critic optimizers with the KL controller; owns no weights."""

    def __init__(self, roles: PolicyRoles, config: PPOConfig):
        """One optimizer each for the policy's adapter and for the critic."""
        self._roles = roles
        self._config = config
        self.policy_optimizer = torch.optim.AdamW(
            roles.adapter_parameters(Role.POLICY), lr=config.learning_rate, weight_decay=0.0
        )
        self.critic_optimizer = torch.optim.AdamW(
            roles.critic_parameters(), lr=config.critic_learning_rate, weight_decay=0.0
        )
        self.kl = AdaptiveKL(
            coef=config.kl_coef, target=config.target_kl, horizon=config.kl_horizon
        )

    @property
    def _has_critic(self) -> bool:
        return self._config.advantage == "gae"

    @torch.no_grad()
    def experience(self, groups: Sequence[Sequence[Sample]], *, seed: str) -> list[MiniBatch]:
        """Score a step's samples under proximal policy, reference and (with GAE) critic.

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
            mini_batch = [
                self._experience(batch)
                for batch in micro_batches(
                    samples, token_budget=config.token_budget, device=self._roles.device
                )
            ]
            if config.advantage != "gae":
                mini_batch = _compared(
                    mini_batch,
                    [len(groups[i]) for i in chosen],
                    estimator=config.advantage,
                    kl_coef=self.kl.coef,
                )
            mini_batches.append(mini_batch)
        _check_finite(mini_batches)
        whitens = self._has_critic and config.whiten_advantages
        return _whitened(mini_batches) if whitens else mini_batches

    def _experience(self, batch: MicroBatch) -> Experience:
        config = self._config
        proximal = self._roles.score(Role.PROXIMAL, batch)
        reference = self._roles.score(Role.REFERENCE, batch, proximal.support)
        kl = kl_estimate(proximal.logprobs, reference.logprobs, config.kl_estimator)
        # Without a critic, advantages come once the mini-batch is scored; see `_compared`.
        values, returns, advantages = None, None, torch.zeros_like(kl)
        if self._has_critic:
            values = self._roles.values(batch)
            after_last = values.gather(1, batch.mask.sum(dim=1, keepdim=True)).squeeze(1)
            values = torch.where(batch.mask, values[:, :-1], 0.0)
            estimate = generalized_advantages(
                token_rewards(batch.rewards, kl, batch.mask, batch.terminal, kl_coef=self.kl.coef),
                values,
                batch.mask,
                torch.where(batch.terminal, 0.0, after_last),
                gamma=config.gamma,
                lam=config.gae_lambda,
            )
            returns, advantages = estimate.returns, estimate.advantages
        mask = batch.mask
        if config.truncation == "mask":
            mask = mask & batch.terminal.unsqueeze(1)
        policy_mask = mask
        if config.sequence_mask is not None:
            kept = sequence_mask(
                proximal.logprobs, batch.sampler_logprobs, batch.mask, bound=config.sequence_mask
            )
            policy_mask = mask & kept.unsqueeze(1)
        return Experience(
            batch=batch,
            support=proximal.support,
            proximal_logprobs=proximal.logprobs,
            reference_logprobs=reference.logprobs,
            reference_kl=kl,
            weights=importance_weights(
                proximal.logprobs, batch.sampler_logprobs, max_weight=config.max_importance_weight
            ),
            entropy=proximal.entropy,
            values=values,
            returns=returns,
            advantages=advantages,
            loss_mask=mask,
            policy_mask=policy_mask,
        )

    def step(
        self,
        mini_batches: Sequence[MiniBatch],
        *,
        train_policy: bool,
        learning_rate_scale: float = 1.0,
    ) -> UpdateMetrics:
        """Move critic and (unless it is still warming up) policy over the mini-batches.

        With ``ppo.stop_kl``, a mini-batch on which the policy has moved too far already is not
        applied, to neither policy nor critic, and ends the step.

        Args:
            mini_batches: The step's experience.
            train_policy: False trains the critic alone; without a critic the policy always trains.
            learning_rate_scale: Factor on both learning rates in this step.

        Raises:
            NonFiniteError: A number or a gradient is not finite. Weights and optimizers are as they
                were before the step, whichever mini-batch it was.
        """
        config, sums, stopped = self._config, _Sums(), False
        train_policy = train_policy or not self._has_critic
        with self._whole_or_not_at_all():
            for optimizer, learning_rate in (
                (self.policy_optimizer, config.learning_rate),
                (self.critic_optimizer, config.critic_learning_rate),
            ):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * learning_rate_scale
            for _ in range(config.num_epochs):
                for mini_batch in mini_batches:
                    stopped = self._optimizer_step(mini_batch, sums, train_policy=train_policy)
                    if stopped:
                        break
                if stopped:
                    break
        metrics = _metrics(mini_batches, sums, kl_coef=self.kl.coef)
        if config.adaptive_kl:
            num_completions = sum(len(e.batch.indices) for m in mini_batches for e in m)
            self.kl.update(metrics.reference_kl, num_completions)
        return replace(metrics, stopped_early=stopped, policy_frozen=not train_policy)

    def _optimizer_step(self, mini_batch: MiniBatch, sums: _Sums, *, train_policy: bool) -> bool:
        """One step of both optimizers, or none and True where the policy has moved too far."""
        config, roles = self._config, self._roles
        value_shares = token_shares([e.loss_mask for e in mini_batch], config.loss_reduction)
        policy_shares = token_shares([e.policy_mask for e in mini_batch], config.loss_reduction)
        num_policy_tokens = sum(int(e.policy_mask.sum()) for e in mini_batch) * train_policy
        num_value_tokens = sum(int(e.loss_mask.sum()) for e in mini_batch) * self._has_critic
        approx_kl = 0.0
        for e, value_share, policy_share in zip(
            mini_batch, value_shares, policy_shares, strict=True
        ):
            if num_value_tokens and e.values is not None and e.returns is not None:
                values = roles.values(e.batch)[:, :-1]
                loss, critic = value_loss(
                    values, e.values, e.returns, value_share, clip=config.value_clip
                )
                loss.backward()  # type: ignore[no-untyped-call]
                sums.value_loss += critic.loss
                sums.clipped_values += critic.clipped_tokens
            if num_policy_tokens:
                logprobs = roles.score(Role.POLICY, e.batch, e.support).logprobs
                _require_finite("the policy's logprobs", logprobs[e.policy_mask])
                loss, policy = policy_loss(
                    logprobs,
                    e.proximal_logprobs,
                    e.advantages,
                    e.weights,
                    policy_share,
                    clip_low=config.clip_low,
                    clip_high=config.clip_high,
                    dual_clip=config.dual_clip,
                )
                loss.backward()  # type: ignore[no-untyped-call]
                sums.policy_loss += policy.loss
                sums.clipped_tokens += policy.clipped_tokens
                sums.dual_clipped_tokens += policy.dual_clipped_tokens
                approx_kl += policy.approx_kl
        sums.num_mini_batches += 1
        sums.num_policy_tokens += num_policy_tokens
        sums.num_value_tokens += num_value_tokens
        sums.approx_kl += approx_kl
        approx_kl /= max(1, num_policy_tokens)
        sums.approx_kl_max = max(sums.approx_kl_max, approx_kl)
        if config.stop_kl is not None and approx_kl > config.stop_kl:
            return True
        critic_norm, policy_norm = self._apply_gradients(
            critic=num_value_tokens > 0, policy=num_policy_tokens > 0
        )
        sums.num_optimizer_steps += int(num_value_tokens + num_policy_tokens > 0)
        sums.critic_grad_norm += critic_norm
        sums.policy_grad_norm += policy_norm
        return False

    def _apply_gradients(self, *, critic: bool, policy: bool) -> tuple[float, float]:
        """Clip and apply the gradients of what has any; returns both norms before clipping.

        An optimizer that no token trains takes no step: its momentum would move the weights.
        """
        used = [
            optimizer if trains else None
            for optimizer, trains in (
                (self.critic_optimizer, critic),
                (self.policy_optimizer, policy),
            )
        ]
        norms = [0.0 if optimizer is None else self._clip(optimizer) for optimizer in used]
        if not all(map(math.isfinite, norms)):
            raise NonFiniteError(f"gradient norms are {norms} (critic, policy); {_UNTOUCHED}")
        for optimizer in used:
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return norms[0], norms[1]

    def _clip(self, optimizer: torch.optim.Optimizer) -> float:
        return float(
            torch.nn.utils.clip_grad_norm_(_parameters(optimizer), self._config.max_grad_norm)
        )

    @contextmanager
    def _whole_or_not_at_all(self) -> Iterator[None]:
        """Undo a step that fails: earlier mini-batches have moved weights and momentum by then.

        Costs a copy of the adapters and their moments, little beside the base.
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


_UNTOUCHED = "weights and optimizers are as they were before the step"


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _require_finite(what: str, numbers: Tensor) -> None:
    if num_bad := int((~numbers.isfinite()).sum()):
        raise NonFiniteError(f"{what}: {num_bad} of {numbers.numel()} are not finite; {_UNTOUCHED}")


def _flat(mini_batches: Sequence[MiniBatch], field: str) -> Tensor:
    """One field of every experience over the tokens that were sampled, [N]."""
    return torch.cat([getattr(e, field)[e.batch.mask] for m in mini_batches for e in m])


def _check_finite(mini_batches: Sequence[MiniBatch]) -> None:
    """Find what is not a number before it reaches an optimizer, and say where it comes from."""
    batches = [e.batch for m in mini_batches for e in m]
    _require_finite("rewards", torch.cat([batch.rewards for batch in batches]))
    _require_finite(
        "the server's logprobs",
        torch.cat([batch.sampler_logprobs[batch.mask] for batch in batches]),
    )
    fields = ["proximal_logprobs", "reference_logprobs", "reference_kl", "weights", "advantages"]
    if mini_batches[0][0].values is not None:
        fields += ["values", "returns"]
    for field in fields:
        _require_finite(field, _flat(mini_batches, field))


def _compared(
    mini_batch: MiniBatch,
    group_sizes: Sequence[int],
    *,
    estimator: Literal["rloo", "grpo"],
    kl_coef: float,
) -> MiniBatch:
    """The same with each completion's advantage over its group, on every one of its tokens."""
    places = torch.tensor([i for e in mini_batch for i in e.batch.indices])
    by_sample = places.argsort()
    device = mini_batch[0].advantages.device

    def gathered(of_completions: list[Tensor]) -> Tensor:
        return torch.cat(of_completions)[by_sample.to(device)]

    advantages = group_advantages(
        gathered([e.batch.rewards for e in mini_batch]),
        gathered([torch.where(e.batch.mask, e.reference_kl, 0.0).sum(dim=1) for e in mini_batch]),
        gathered([e.loss_mask.any(dim=1) for e in mini_batch]),
        group_sizes,
        estimator=estimator,
        kl_coef=kl_coef,
    )
    return [
        replace(
            e,
            advantages=torch.where(
                e.loss_mask, advantages[list(e.batch.indices)].unsqueeze(1), 0.0
            ),
        )
        for e in mini_batch
    ]


def _whitened(mini_batches: Sequence[MiniBatch]) -> list[MiniBatch]:
    """The same with advantages whitened over the tokens of the whole step."""
    everything = [e for mini_batch in mini_batches for e in mini_batch]
    whitened = iter(whiten([e.advantages for e in everything], [e.policy_mask for e in everything]))
    return [
        [replace(e, advantages=next(whitened)) for e in mini_batch] for mini_batch in mini_batches
    ]


def _metrics(mini_batches: Sequence[MiniBatch], sums: _Sums, *, kl_coef: float) -> UpdateMetrics:
    everything = [e for m in mini_batches for e in m]
    proximal, weights = _flat(mini_batches, "proximal_logprobs"), _flat(mini_batches, "weights")
    sampler = torch.cat([e.batch.sampler_logprobs[e.batch.mask] for e in everything])
    advantages = _flat(mini_batches, "advantages")
    mismatch = (proximal - sampler).abs()
    num_completions = sum(len(e.batch.indices) for e in everything)
    num_masked = sum(
        int((e.loss_mask.any(dim=1) & ~e.policy_mask.any(dim=1)).sum()) for e in everything
    )
    num_mini_batches = max(1, sums.num_mini_batches)
    num_steps = max(1, sums.num_optimizer_steps)
    num_policy_tokens = max(1, sums.num_policy_tokens)
    metrics = UpdateMetrics(
        policy_loss=sums.policy_loss / num_mini_batches,
        value_loss=math.nan,
        approx_kl=sums.approx_kl / num_policy_tokens,
        approx_kl_max=sums.approx_kl_max,
        clip_fraction=sums.clipped_tokens / num_policy_tokens,
        dual_clip_fraction=sums.dual_clipped_tokens / num_policy_tokens,
        value_clip_fraction=math.nan,
        entropy=float(_flat(mini_batches, "entropy").mean()),
        reference_kl=float(_flat(mini_batches, "reference_kl").sum()) / num_completions,
        kl_coef=kl_coef,
        explained_variance=math.nan,
        advantage_mean=float(advantages.mean()),
        advantage_std=float(advantages.std()),
        value_mean=math.nan,
        return_mean=math.nan,
        importance_weight_mean=float(weights.mean()),
        effective_sample_size=effective_sample_size(weights),
        sequence_masked=num_masked / num_completions,
        logprob_mismatch=float(mismatch.mean()),
        logprob_mismatch_max=float(mismatch.max()),
        policy_grad_norm=sums.policy_grad_norm / num_steps,
        critic_grad_norm=math.nan,
        num_optimizer_steps=sums.num_optimizer_steps,
        stopped_early=False,
        policy_frozen=False,
    )
    if everything[0].values is None:
        return metrics
    values, returns = _flat(mini_batches, "values"), _flat(mini_batches, "returns")
    return replace(
        metrics,
        value_loss=sums.value_loss / num_mini_batches,
        value_clip_fraction=sums.clipped_values / max(1, sums.num_value_tokens),
        explained_variance=explained_variance(values, returns),
        value_mean=float(values.mean()),
        return_mean=float(returns.mean()),
        critic_grad_norm=sums.critic_grad_norm / num_steps,
    )
