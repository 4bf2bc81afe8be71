"""Computes the trainer's logprobs for what was pushed, and for what a server may wrongly serve or sample instead.

Every computation overwrites the proximal role.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor

from trainer.model.adapter import read_adapter
from trainer.model.batches.sample import Sample
from trainer.model.logprobs import AS_ASKED, Sampling
from trainer.model.roles import PolicyRoles, Role
from trainer.online.published import Published

_NUM_OLDER = 4
"""How many versions before the previous one are tried once there is a mismatch."""

PUSHED = "what was pushed"
_RAW = "temperature 1 and top_p 1 (raw logprobs)"
_WHOLE = "top_p 1"
_LATE, _EARLY = "the token before (shifted by one)", "the token after (shifted by one)"
_B_FACTORS = {0.0: "the base without an adapter", 0.5: "lora_B halved", 2.0: "lora_B doubled"}
_FINER_B_FACTORS = {factor: f"lora_B times {factor:g}" for factor in (0.25, 0.75, 1.5, 4.0)}
_TEMPERATURE_FACTORS = (0.5, 2.0)
_FINER_TEMPERATURE_FACTORS = tuple(2 ** (k / 4) for k in range(-8, 9) if k not in (-4, 0, 4))


class Explanations(Protocol):
    """The trainer's logprobs of some completions under each of several explanations.

    Each method returns a dict from an explanation's name to one tensor [C] per completion, which is NaN on tokens
    that the explanation does not cover.
    """

    @property
    def version(self) -> int:
        """The version that the server was asked for."""

    def usual(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        """`PUSHED`, and the alternatives that two forward passes are enough for."""

    def scaled_adapters(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        """Alternatives in which the server scales the adapter or leaves it out; each takes a forward pass."""

    def finer(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        """Further explanations, for when there is a mismatch: other factors and older versions."""


@dataclass(frozen=True, kw_only=True)
class ComputedExplanations:
    """`Explanations` computed by forward passes of the proximal role."""

    roles: PolicyRoles
    published: Published
    """What was pushed."""
    token_budget: int
    """The most tokens of a forward pass."""
    earlier: Callable[[], Iterator[Published]] = lambda: iter(())
    """The versions before it, newest first; a stale server may still serve one of them."""

    @property
    def version(self) -> int:
        """The version that the server was asked for."""
        return self.published.version

    def usual(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        """`PUSHED`, other ways of sampling, logprobs shifted by one token, and the version before."""
        self._load(self.published)
        found = self._samplings(samples, _TEMPERATURE_FACTORS, pushed=True)
        found |= _shifts(found[PUSHED])
        return found | self._versions(samples, islice(self.earlier(), 1))

    def scaled_adapters(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        """The adapter scaled or left out."""
        return self._scaled(samples, _B_FACTORS)

    def finer(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        """Other temperatures and scales, and older versions."""
        self._load(self.published)
        found = self._samplings(samples, _FINER_TEMPERATURE_FACTORS, pushed=False)
        found |= self._scaled(samples, _FINER_B_FACTORS)
        return found | self._versions(samples, islice(self.earlier(), 1, 1 + _NUM_OLDER))

    def _versions(
        self, samples: Sequence[Sample], others: Iterable[Published]
    ) -> dict[str, list[Tensor]]:
        found = {}
        for other in others:
            self._load(other)
            found[f"version {other.version}"] = self._logprobs(samples)
        return found

    def _scaled(
        self, samples: Sequence[Sample], factors: dict[float, str]
    ) -> dict[str, list[Tensor]]:
        found = {}
        for factor, name in factors.items():
            self._load(self.published, b_factor=factor)
            found[name] = self._logprobs(samples)
        return found

    def _load(self, published: Published, *, b_factor: float = 1.0) -> None:
        """Load a published adapter into the proximal role, its lora_B scaled."""
        state = read_adapter(published.folder)
        scaled = {n: t * b_factor if ".lora_B." in n else t for n, t in state.items()}
        self.roles.load_adapter_state(Role.PROXIMAL, scaled)

    def _samplings(
        self, samples: Sequence[Sample], factors: Sequence[float], *, pushed: bool
    ) -> dict[str, list[Tensor]]:
        """Logprobs at other temperatures; with ``pushed``, also as asked for, without top_p, and raw."""
        ways = {
            f"{factor:.2g} times the arms' temperatures": Sampling(temperature_factor=factor)
            for factor in factors
        }
        if pushed:
            ways[PUSHED] = AS_ASKED
            # If the arms asked for exactly this sampling, it is not an alternative.
            if any(sample.top_p < 1 for sample in samples):
                ways[_WHOLE] = Sampling(whole=True)
            if any(sample.temperature != 1 for sample in samples):
                ways[_RAW] = Sampling(raw=True)
        logprobs = self.roles.logprobs_by_sampling(
            Role.PROXIMAL, samples, list(ways.values()), token_budget=self.token_budget
        )
        return dict(zip(ways, logprobs, strict=True))

    def _logprobs(self, samples: Sequence[Sample]) -> list[Tensor]:
        return self.roles.completion_logprobs(
            Role.PROXIMAL, samples, token_budget=self.token_budget
        )


def _shifts(pushed: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """The logprobs of the neighbouring tokens; NaN at the end where there is no neighbour."""
    missing = torch.full((1,), torch.nan)
    return {
        _LATE: [torch.cat([missing, logprobs[:-1]]) for logprobs in pushed],
        _EARLY: [torch.cat([logprobs[1:], missing]) for logprobs in pushed],
    }


def chosen_samples(samples: Sequence[Sample], *, max_tokens: int) -> list[Sample]:
    """Shortened completions of several prompts, whose forward pass takes at most about ``max_tokens``.

    The test counts completions, and most of the cost of a prompt's first completion is the prompt itself. So
    several completions are taken of each prompt: the beginnings of those at the highest temperatures, which
    differ most.
    """
    by_prompt: dict[tuple[int, ...], list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt_ids, []).append(sample)
    chosen: list[Sample] = []
    num_tokens = 0
    for prompt, family in by_prompt.items():
        hottest = sorted(family, key=lambda sample: -sample.temperature)[:_PER_PROMPT]
        cut = [_cut(sample) for sample in hottest]
        cost = len(prompt) + sum(len(sample.completion_ids) for sample in cut)
        if chosen and (num_tokens + cost > max_tokens or len(chosen) >= _ENOUGH):
            break
        chosen += cut
        num_tokens += cost
    return chosen


_PER_PROMPT = 4
_CUT_TOKENS = 32
_ENOUGH = 32
"""This many completions are enough: an alarm takes 13 that agree."""


def _cut(sample: Sample) -> Sample:
    if len(sample.completion_ids) <= _CUT_TOKENS:
        return sample
    return replace(
        sample,
        completion_ids=sample.completion_ids[:_CUT_TOKENS],
        sampler_logprobs=sample.sampler_logprobs[:_CUT_TOKENS],
        # Avoids computing the state after the last token, which is not needed.
        truncated=False,
    )
