"""Proof of sync: the server serves, under its name, the weights that were pushed.

After each push the server generates a few tokens under the new version, before anything else is
asked of it, and the trainer scores the same tokens with the adapter that it pushed. No rollout of a
version trains before the two agree. Where they do not, `diagnose` says what the server's numbers
would fit.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from anyio.from_thread import BlockingPortal
from torch import Tensor

from inference_server.wire.schemas import ArmsRequest, Priority, Question
from regime_w import ArmSpec
from trainer.config.sections import TrainConfig
from trainer.console.tracking import Metrics
from trainer.errors import SyncError
from trainer.model.adapter import read_adapter
from trainer.model.batch import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.online.logprob_mismatch import Mismatch, diagnose, fits_better, shift_mismatches
from trainer.online.serving import Serving
from trainer.online.versions import Published
from trainer.rollouts.groups import as_sample

_NUM_PROBE_TOKENS = 8
"""Of each arm."""
_TOKEN_BUDGET = 4096
_PROBE_SEED = 0
_MAX_MISMATCH_FLOAT32 = 0.005
"""Rounding is 1e-6; one token at the edge of a nucleus can add 0.1 nats to one of the probe's."""
_MAX_MISMATCH = 0.05
_NOISE = 1e-5
"""Nats a token that float32 rounding alone can make; below it nothing is proof of anything."""
_TEMPERATURE_FACTORS = tuple(2 ** (k / 4) for k in range(-8, 9) if k)
_B_FACTORS = {0.0: "the base without an adapter", 0.5: "lora_B halved", 2.0: "lora_B doubled"}


def probe_arms(arms: Sequence[ArmSpec]) -> list[ArmSpec]:
    """The coolest and the warmest arm of each system prompt, in their order."""
    by_prompt: dict[str, list[ArmSpec]] = {}
    for arm in arms:
        by_prompt.setdefault(arm.system_prompt, []).append(arm)
    chosen = {
        extreme(family, key=lambda arm: arm.temperature).name
        for family in by_prompt.values()
        for extreme in (min, max)
    }
    return [arm for arm in arms if arm.name in chosen]


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """A version whose proof is under way."""

    published: Published
    previous: Published | None
    samples: Future[list[Sample]]


class SyncCheck:
    """Asks for a probe of each push and lets no version through that fails it."""

    def __init__(
        self,
        serving: Serving,
        portal: BlockingPortal,
        config: TrainConfig,
        *,
        question: str,
        server_dtype: str,
    ):
        """Nothing is asked before the first `start`.

        Args:
            serving: The run's versions on the server.
            portal: Where requests run.
            config: The run's arms and threshold.
            question: The probe's question.
            server_dtype: What the server computes in, e.g. ``float32``.
        """
        self._serving = serving
        self._portal = portal
        self._arms = probe_arms(config.rollout.resolved_arms)
        self._question = question
        exact = server_dtype == config.policy.dtype == "float32"
        self.max_mismatch = config.ppo.max_logprob_mismatch or (
            _MAX_MISMATCH_FLOAT32 if exact else _MAX_MISMATCH
        )
        self._probe: _Probe | None = None
        self._proven: Published | None = None
        self.metrics: Metrics = {}
        """Of the newest proof."""

    def start(self, published: Published) -> None:
        """Ask for the probe of a new version; call it before anything else is asked of it."""
        samples = self._portal.start_task_soon(self._ask, published)
        self._probe = _Probe(published=published, previous=self._proven, samples=samples)

    def require(self, version: int, roles: PolicyRoles) -> None:
        """Return once a version is proven; a proof that was still open overwrites the proximal role.

        Raises:
            SyncError: It failed; the message names the measure and the likely cause.
        """
        probe = self._probe
        if probe is None or version < probe.published.version:
            return
        samples = probe.samples.result()
        server = [torch.tensor(sample.sampler_logprobs) for sample in samples]
        _serve(roles, probe.published.folder)
        trainer = _logprobs(roles, samples)
        found = Mismatch.between(server, trainer)
        if not found.mean <= _NOISE:
            explanations = {}
            if probe.previous is not None:
                _serve(roles, probe.previous.folder)
                name = f"version {probe.previous.version}"
                explanations[name] = Mismatch.between(server, _logprobs(roles, samples)).mean
            # Two versions can be closer than any threshold. What fits the one before so much better
            # than this one is not this one, however little they differ.
            is_stale = any(fits_better(before, found.mean) for before in explanations.values())
            if is_stale or not found.mean <= self.max_mismatch:
                explanations |= shift_mismatches(server, trainer)
                explanations |= _other_settings(roles, samples, server, probe.published.folder)
                raise SyncError(
                    f"version {version} fails the proof of sync: over the {found.num_tokens} tokens "
                    f"of the probe the server's logprobs differ from the trainer's by "
                    f"{found.mean:.2g} on average (at most {found.max:.2g}, signed "
                    f"{found.bias:+.2g}; allowed {self.max_mismatch:g}). "
                    f"Likely cause: {diagnose(found.mean, explanations)}"
                )
        self.metrics = {
            "sync/version": probe.published.version,
            "sync/mismatch": found.mean,
            "sync/mismatch_max": found.max,
        }
        self._probe, self._proven = None, probe.published

    def require_rollouts(self, version: int, mean_mismatch: float) -> None:
        """Hold a step's rollouts to the threshold of the probe.

        Raises:
            SyncError: The mean |trainer - server| logprob of ``version``'s rollouts is over it.
        """
        if not mean_mismatch <= self.max_mismatch:
            raise SyncError(
                f"the server's logprobs of rollouts of version {version} differ from the trainer's "
                f"by {mean_mismatch:.2g} on average (allowed {self.max_mismatch:g}), though its "
                "probe did not: the server changed what it serves, or how it samples"
            )

    async def _ask(self, published: Published) -> list[Sample]:
        request = ArmsRequest(
            questions=[Question(id="probe", question=self._question)],
            arms=list(self._arms),
            max_tokens=_NUM_PROBE_TOKENS,
            seed=_PROBE_SEED,
            policy=published.version,
            priority=Priority.AD_HOC,
        )
        group, _ = await self._serving.group(request)
        for arm, spec in zip(group.arms, self._arms, strict=True):
            if (arm.temperature, arm.top_p) != (spec.temperature, spec.top_p):
                raise SyncError(
                    f"version {published.version} fails the proof of sync: arm {spec.name} was asked "
                    f"at temperature {spec.temperature:g} and top_p {spec.top_p:g}, and sampled at "
                    f"{arm.temperature:g} and {arm.top_p:g}"
                )
        held = await self._serving.info(published.version)
        if held.sha256 != published.sha256 or held.active < published.activated:
            state = "active" if held.active else "not active"
            raise SyncError(
                f"version {published.version} fails the proof of sync: the server lists it as "
                f"{state} with digest {held.sha256}; pushed was {published.sha256}"
            )
        return [as_sample(arm, version=published.version) for arm in group.arms]


def _serve(roles: PolicyRoles, folder: Path, *, b_factor: float = 1.0) -> None:
    """Take a published adapter into the proximal role, its lora_B scaled."""
    state = read_adapter(folder)
    scaled = {n: t * b_factor if ".lora_B." in n else t for n, t in state.items()}
    roles.load_adapter_state(Role.PROXIMAL, scaled)


def _logprobs(roles: PolicyRoles, samples: Sequence[Sample]) -> list[Tensor]:
    """Of each sample's completion under the proximal role, [C] on the CPU."""
    return roles.sample_logprobs(Role.PROXIMAL, samples, token_budget=_TOKEN_BUDGET)


def _other_settings(
    roles: PolicyRoles, samples: Sequence[Sample], server: Sequence[Tensor], folder: Path
) -> dict[str, float]:
    """Mean |difference| had the server sampled otherwise, or scaled the adapter."""
    variants = {
        "temperature 1 and top_p 1 (raw logprobs)": [
            replace(sample, temperature=1.0, top_p=1.0) for sample in samples
        ],
        "top_p 1": [replace(sample, top_p=1.0) for sample in samples],
        **{
            f"{factor:.2g} times the arms' temperatures": [
                replace(sample, temperature=sample.temperature * factor) for sample in samples
            ]
            for factor in _TEMPERATURE_FACTORS
        },
    }
    found = {
        name: Mismatch.between(server, _logprobs(roles, variant)).mean
        for name, variant in variants.items()
    }
    for b_factor, name in _B_FACTORS.items():
        _serve(roles, folder, b_factor=b_factor)
        found[name] = Mismatch.between(server, _logprobs(roles, samples)).mean
    return found
