"""The weight-sync check: does the server serve, under a version's name, the weights that were pushed?

After each push the server generates a few tokens under the new version, and the trainer scores the same
tokens with the adapter that it pushed. Where the two differ by more than rounding, `SyncError` says what
the server's logprobs would fit. `trainer.online.versions` decides when a probe is asked and waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from inference_server.wire.schemas import AdapterInfo, ArmGroup, ArmsRequest, Priority, Question
from regime_w import ArmSpec
from trainer.config.sections import TrainConfig
from trainer.console.tracking import Metrics
from trainer.errors import SyncError
from trainer.model.adapter import read_adapter
from trainer.model.batch import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.online.logprob_mismatch import Mismatch, diagnose, fits_better, shift_mismatches
from trainer.rollouts.groups import as_sample
from trainer.run_state.journal_entries import JournaledAdapter

_NUM_PROBE_TOKENS = 8
"""Of each arm."""
_TOKEN_BUDGET = 4096
_PROBE_SEED = 0
_MAX_MISMATCH_FLOAT32 = 0.005
"""Rounding is 1e-6; one token at the edge of a nucleus can add 0.1 nats to one of the probe's."""
_MAX_MISMATCH = 0.05
_NOISE = 1e-5
"""Nats a token that float32 rounding alone can make; a mismatch below it proves nothing."""
_TEMPERATURE_FACTORS = tuple(2 ** (k / 4) for k in range(-8, 9) if k)
_B_FACTORS = {0.0: "the base without an adapter", 0.5: "lora_B halved", 2.0: "lora_B doubled"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version that the server has confirmed."""

    version: int
    folder: Path
    sha256: str
    """Of its weights file."""
    activated: bool = True
    """Whether ``policy`` moved to it."""


def require_acknowledged(adapter: JournaledAdapter, info: AdapterInfo) -> None:
    """Hold the server's answer to a push against what was pushed.

    Raises:
        SyncError: It has another number or digest, or is not active.
    """
    if (info.version, info.sha256, info.active) != (adapter.version, adapter.sha256, True):
        state = "active" if info.active else "not active"
        raise SyncError(
            f"pushed version {adapter.version} with digest {adapter.sha256}, and the server "
            f"acknowledges version {info.version}, {state}, with digest {info.sha256}"
        )


def probe_arms(arms: Sequence[ArmSpec]) -> list[ArmSpec]:
    """The arms with the lowest and the highest temperature of each system prompt, in their order."""
    by_prompt: dict[str, list[ArmSpec]] = {}
    for arm in arms:
        by_prompt.setdefault(arm.system_prompt, []).append(arm)
    chosen = {
        extreme(family, key=lambda arm: arm.temperature).name
        for family in by_prompt.values()
        for extreme in (min, max)
    }
    return [arm for arm in arms if arm.name in chosen]


class SyncCheck:
    """What is asked of a new version, and how its answer is compared with the trainer's own logprobs."""

    def __init__(self, config: TrainConfig, *, question: str, server_dtype: str):
        """Fix probe and threshold for a run.

        Args:
            config: The run's arms and threshold.
            question: The probe's question.
            server_dtype: What the server computes in, e.g. ``float32``.
        """
        self._arms = probe_arms(config.rollout.arms)
        self._question = question
        self._prompt_format = config.rollout.prompt_format
        exact = server_dtype == config.policy.dtype == "float32"
        self.max_mismatch = config.ppo.max_logprob_mismatch or (
            _MAX_MISMATCH_FLOAT32 if exact else _MAX_MISMATCH
        )

    def request(self, version: int) -> ArmsRequest:
        """The probe of a version."""
        return ArmsRequest(
            questions=[Question(id="probe", question=self._question)],
            arms=list(self._arms),
            prompt_format=self._prompt_format,
            max_tokens=_NUM_PROBE_TOKENS,
            seed=_PROBE_SEED,
            policy=version,
            priority=Priority.AD_HOC,
        )

    def samples(self, published: Published, group: ArmGroup, held: AdapterInfo) -> list[Sample]:
        """The probe's completions, if the server sampled as asked and lists the version as pushed.

        Args:
            published: The version that was asked.
            group: Its answer to `request`.
            held: The version as the server lists it.

        Raises:
            SyncError: Sampling settings, digest or activation differ from what was asked.
        """
        for arm, spec in zip(group.arms, self._arms, strict=True):
            if (arm.temperature, arm.top_p) != (spec.temperature, spec.top_p):
                raise SyncError(
                    f"version {published.version} fails the proof of sync: arm {spec.name} was asked "
                    f"at temperature {spec.temperature:g} and top_p {spec.top_p:g}, and sampled at "
                    f"{arm.temperature:g} and {arm.top_p:g}"
                )
        if held.sha256 != published.sha256 or held.active < published.activated:
            state = "active" if held.active else "not active"
            raise SyncError(
                f"version {published.version} fails the proof of sync: the server lists it as "
                f"{state} with digest {held.sha256}; pushed was {published.sha256}"
            )
        return [as_sample(arm, version=published.version) for arm in group.arms]

    def compare(
        self,
        samples: Sequence[Sample],
        roles: PolicyRoles,
        published: Published,
        previous: Published | None,
    ) -> Metrics:
        """Score a probe with the weights that were pushed; overwrites the proximal role.

        Args:
            samples: From `samples`.
            roles: Score them.
            published: The version that was asked.
            previous: The version that was proven before it, which a stale server still serves.

        Returns:
            The mismatch, under ``sync/`` names.

        Raises:
            SyncError: Mismatch and likely cause.
        """
        server = [torch.tensor(sample.sampler_logprobs) for sample in samples]
        _load(roles, published.folder)
        trainer = _logprobs(roles, samples)
        found = Mismatch.between(server, trainer)
        if not found.mean <= _NOISE:
            explanations = {}
            if previous is not None:
                _load(roles, previous.folder)
                name = f"version {previous.version}"
                explanations[name] = Mismatch.between(server, _logprobs(roles, samples)).mean
            # Two versions can be closer than any threshold. Logprobs that fit the previous version
            # so much better are of the previous version, however little the two differ.
            is_stale = any(fits_better(before, found.mean) for before in explanations.values())
            if is_stale or not found.mean <= self.max_mismatch:
                explanations |= shift_mismatches(server, trainer)
                explanations |= _other_settings(roles, samples, server, published.folder)
                raise SyncError(
                    f"version {published.version} fails the proof of sync: over the "
                    f"{found.num_tokens} tokens of the probe the server's logprobs differ from the "
                    f"trainer's by {found.mean:.2g} on average (at most {found.max:.2g}, signed "
                    f"{found.bias:+.2g}; allowed {self.max_mismatch:g}). "
                    f"Likely cause: {diagnose(found.mean, explanations)}"
                )
        return {
            "sync/version": published.version,
            "sync/mismatch": found.mean,
            "sync/mismatch_max": found.max,
        }

    def require_rollouts(self, version: int, mean_mismatch: float) -> None:
        """Hold a step's rollouts to the threshold of the probe.

        Args:
            version: The version that generated them.
            mean_mismatch: Mean |trainer - server| logprob, nats a token.

        Raises:
            SyncError: The mismatch is over the threshold.
        """
        if not mean_mismatch <= self.max_mismatch:
            raise SyncError(
                f"the server's logprobs of rollouts of version {version} differ from the trainer's "
                f"by {mean_mismatch:.2g} on average (allowed {self.max_mismatch:g}), though its "
                "probe did not: the server changed what it serves, or how it samples"
            )


def _load(roles: PolicyRoles, folder: Path, *, b_factor: float = 1.0) -> None:
    """Load a published adapter into the proximal role, its lora_B scaled."""
    state = read_adapter(folder)
    scaled = {n: t * b_factor if ".lora_B." in n else t for n, t in state.items()}
    roles.load_adapter_state(Role.PROXIMAL, scaled)


def _logprobs(roles: PolicyRoles, samples: Sequence[Sample]) -> list[Tensor]:
    """Logprobs of each sample's completion under the proximal role, [C] on the CPU."""
    return roles.sample_logprobs(Role.PROXIMAL, samples, token_budget=_TOKEN_BUDGET)


def _other_settings(
    roles: PolicyRoles, samples: Sequence[Sample], server: Sequence[Tensor], folder: Path
) -> dict[str, float]:
    """Mean |difference| if the server had sampled with other settings, or scaled the adapter."""
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
        _load(roles, folder, b_factor=b_factor)
        found[name] = Mismatch.between(server, _logprobs(roles, samples)).mean
    return found
