"""How the weight-sync check judges the pushes that `python -m benchmarks.weight_sync collect` has kept.

Pushes are drawn from the kept ones: each is a version and three quarters of the questions that it was asked, so that a
few versions give many pushes. If the check asks for more rollouts, it gets those of the other questions. The check is the
trainer's own; only the logprobs that it asks for are computed already.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.markdown import markdown_table
from trainer.config.sections import TrainConfig
from trainer.errors import SyncError
from trainer.model.batches.sample import Sample
from trainer.online.weight_sync.alternatives import PUSHED
from trainer.online.weight_sync.check import SyncCheck
from trainer.online.weight_sync.evidence import DistinctTokens, noise
from trainer.online.weight_sync.outcome import SyncOutcome

SABOTAGES = ("stale", "scaled", "heated", "shifted")
SCALED = ("lora_B", "the base without")


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A server's completions by a version with the trainer's logprobs of them; gives `Explanations` of any of them."""

    samples: list[Sample]
    """The ``reward`` of each is its index."""
    explained: dict[str, list[Tensor]]
    names: Mapping[str, str]
    """The explanations that the check compares, and the name of each in ``explained``."""
    version: int = 0

    @classmethod
    def of(cls, kept: Mapping[str, Any], names: Mapping[str, str] | None = None) -> "Answered":
        samples = [replace(s, reward=float(i)) for i, s in enumerate(kept["samples"])]
        lengths = [len(sample.completion_ids) for sample in samples]
        explained = {name: list(torch.split(t, lengths)) for name, t in kept["logprobs"].items()}
        plain = {n: n for n in explained if not n.startswith(("previous ", "next "))}
        return cls(samples=samples, explained=explained, names=plain if names is None else names)

    def shifted(self) -> "Answered":
        """As if the server gave each token the logprob of the next."""
        samples = [
            replace(s, sampler_logprobs=(*s.sampler_logprobs[1:], s.sampler_logprobs[0]))
            for s in self.samples
        ]
        return replace(self, samples=samples)

    def usual(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        return self._of(samples, [n for n in self.names if not n.startswith(SCALED)])

    def scaled_adapters(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        return self._of(samples, [n for n in self.names if n.startswith(SCALED)])

    def finer(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        return {}

    def pushed(self, samples: Sequence[Sample]) -> list[Tensor]:
        return self._of(samples, [PUSHED])[PUSHED]

    def noise(self) -> float:
        tokens = DistinctTokens.of(self.samples)
        return noise(tokens, tokens.chosen(self.pushed(self.samples))).per_logit

    def _of(self, samples: Sequence[Sample], names: Sequence[str]) -> dict[str, list[Tensor]]:
        # The check may have cut the completions short.
        return {
            name: [
                self.explained[self.names[name]][int(s.reward)][: len(s.completion_ids)]
                for s in samples
            ]
            for name in names
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The check's result for a push."""

    outcome: SyncOutcome | None
    """None if it stopped the run."""
    asked_more: bool


def verdict(
    answered: Answered,
    rng: random.Random,
    usual_noise: Sequence[float],
    *,
    compares: bool,
    server_dtype: str,
) -> Verdict:
    """Draw a push and check it, as in a run whose earlier versions had the usual noise.

    Args:
        answered: What the push is drawn from.
        rng: Draws the push.
        usual_noise: The noise of each earlier version.
        compares: Whether to compute the alternatives, whatever the noise.
        server_dtype: The dtype in which the server computed, and the trainer too.
    """
    prompts = sorted({sample.prompt_ids for sample in answered.samples})
    drawn = set(rng.sample(prompts, max(1, len(prompts) * 3 // 4)))
    samples = [sample for sample in answered.samples if sample.prompt_ids in drawn]
    others = [sample for sample in answered.samples if sample.prompt_ids not in drawn]
    asked: list[Sample] = []

    def ask_more() -> list[Sample]:
        asked.extend(others)
        return others

    past = [{"sync/noise": x} for x in usual_noise]
    check = SyncCheck(TrainConfig(), server_dtype=server_dtype, past=past)
    pushed = None if compares else answered.pushed(samples)
    try:
        outcome = check.prove(samples, answered, pushed=pushed, ask_more=ask_more)
    except SyncError:
        outcome = None
    return Verdict(outcome=outcome, asked_more=bool(asked))


def table(path: Path, *, pushes: int, sabotaged: int) -> str:
    """A Markdown table with a row for each learning rate."""
    kept = torch.load(path, weights_only=False)
    rng = random.Random(0)
    check = partial(verdict, rng=rng, server_dtype=path.stem.split("-")[0])
    usual_noise = [Answered.of(one["healthy"]).noise() for one in kept]
    heads = (
        *("learning rate", "healthy: compared, asked more, stopped", "largest z"),
        *("z of the version before", "stops in 10,000"),
        *("cannot be told: the version before, others", *SABOTAGES),
    )
    rows = []
    names = kept[0]["healthy"]["logprobs"]
    for rate in [n.split()[1] for n in names if n.startswith("previous ")]:
        found: Counter[str] = Counter()
        worst: list[float] = []
        previous: list[float] = []
        stale = {PUSHED: f"next {rate}", "the version before": PUSHED}
        for number in range(pushes):
            one = rng.choice(kept)["healthy"]
            plain = Answered.of(one).names
            healthy = Answered.of(one, {**plain, "the version before": f"previous {rate}"})
            cheap = check(healthy, usual_noise=usual_noise, compares=False)
            whole = check(healthy, usual_noise=usual_noise, compares=True)
            found["stopped"] += cheap.outcome is None or whole.outcome is None
            found["compared"] += cheap.outcome is None or bool(cheap.outcome.z)
            found["asked"] += whole.asked_more
            if whole.outcome is not None:
                told = whole.outcome.unprovable
                found["before"] += "the version before" in told
                found["others"] += len(set(told) - {"the version before"})
                worst.append(max(whole.outcome.z.values()))
                previous.append(whole.outcome.z["the version before"])
            if number < sabotaged:
                sabotages = {"stale": Answered.of(one, stale), "shifted": healthy.shifted()}
                other = rng.choice([k for k in kept if "scaled" in k])
                sabotages |= {kind: Answered.of(other[kind]) for kind in ("scaled", "heated")}
                for kind, answered in sabotages.items():
                    seen = check(answered, usual_noise=usual_noise, compares=False)
                    found[kind] += seen.outcome is None
        rows.append(
            (
                rate,
                f"{found['compared']}, {found['asked']}, {found['stopped']} of {pushes}",
                *(f"{max(worst):.1f}", mean_and_deviation(previous)),
                *(f"{false_stops(previous):.1e}", f"{found['before']}, {found['others']}"),
                *(f"{found[kind]} of {sabotaged}" for kind in SABOTAGES),
            )
        )
    noise = f"{min(usual_noise):.1e} to {max(usual_noise):.1e}"
    title = f"{path.stem}: {len(kept)} sets of questions; noise of logits {noise}"
    return f"{title}\n\n{markdown_table(heads, rows)}"


def mean_and_deviation(z: Sequence[float]) -> str:
    mean = sum(z) / len(z)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in z) / len(z))
    return f"{mean:+.1f} ± {deviation:.2f}"


def false_stops(z: Sequence[float]) -> float:
    """False stops in 10,000 pushes, if the z of the version before is normally distributed with its mean and spread."""
    mean = sum(z) / len(z)
    deviation = max(1.0, math.sqrt(sum((x - mean) ** 2 for x in z) / len(z)))
    limit = math.sqrt(2 * math.log(10 / 1e-5))
    return 1e4 * math.erfc((limit - mean) / deviation / math.sqrt(2)) / 2
