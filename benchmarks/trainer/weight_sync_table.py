"""What the weight-sync check makes of the pushes that benchmarks/trainer/weight_sync.py has kept.

A push is drawn from them: a version and half of the questions that it was asked, so that many pushes come of
few. The check is the trainer's own, with its two looks; only the probe is missing that a real second look adds.
"""

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.model.batch import Sample
from trainer.online.sync_alternatives import PUSHED, chosen_samples
from trainer.online.sync_check import MAX_TOKENS, SyncOutcome, judge

Explained = Mapping[str, Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A server's completions of a version, and what the trainer says of them."""

    samples: list[Sample]
    explained: dict[str, list[Tensor]]

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Answered":
        samples: list[Sample] = kept["samples"]
        lengths = [len(sample.completion_ids) for sample in samples]
        explained = {name: list(torch.split(t, lengths)) for name, t in kept["logprobs"].items()}
        return cls(samples=samples, explained=explained)

    def some(self, prompts: set[tuple[int, ...]]) -> "Answered":
        """Of some prompts alone."""
        places = [i for i, sample in enumerate(self.samples) if sample.prompt_ids in prompts]
        return Answered(
            samples=[self.samples[i] for i in places],
            explained={name: [each[i] for i in places] for name, each in self.explained.items()},
        )

    def named(self, names: Mapping[str, str]) -> "Answered":
        """With explanations under other names, and no others."""
        explained = {name: self.explained[old] for name, old in names.items()}
        return Answered(samples=self.samples, explained=explained)

    def shifted(self) -> "Answered":
        """As if the server gave each token the logprob of the next."""
        samples = [
            replace(s, sampler_logprobs=(*s.sampler_logprobs[1:], s.sampler_logprobs[0]))
            for s in self.samples
        ]
        return Answered(samples=samples, explained=self.explained)

    def looked_at(self) -> tuple[SyncOutcome, bool, bool]:
        """The first look, whether it raised an alarm, and whether the second stopped the run."""
        numbered = [replace(sample, reward=float(i)) for i, sample in enumerate(self.samples)]
        chosen = chosen_samples(numbered, max_tokens=MAX_TOKENS)
        explained = {
            name: [each[int(s.reward)][: len(s.completion_ids)] for s in chosen]
            for name, each in self.explained.items()
        }
        outcome = judge(0, chosen, explained)
        if not outcome.suspected:
            return outcome, False, False
        return outcome, True, bool(judge(0, self.samples, self.explained).failed)


def table(path: Path, *, pushes: int, sabotaged: int, rates: Sequence[str]) -> str:
    """Markdown: a row a learning rate."""
    kept = torch.load(path, weights_only=False)
    rng = random.Random(0)
    rows = [
        f"{path.stem}: {len(kept)} sets of questions",
        "",
        "| learning rate | healthy: alarms, stops | largest z | a z of N(0, 1), stops in 10,000 | unprovable | "
        "stale | scaled | heated | shifted |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for rate in rates:
        found: Counter[str] = Counter()
        worst: list[float] = []
        previous: list[float] = []
        for number in range(pushes):
            one = rng.choice(kept)
            healthy = drawn(one["healthy"], rng)
            usual = [n for n in healthy.explained if not n.startswith(("previous ", "next "))]
            names = {name: name for name in usual} | {"previous": f"previous {rate}"}
            outcome, alarm, stopped = healthy.named(names).looked_at()
            found["alarm"] += alarm
            found["stopped"] += stopped
            found["unprovable"] += len(outcome.unprovable)
            found["unprovable previous"] += "previous" in outcome.unprovable
            worst.append(max(outcome.z.values()))
            previous.append(outcome.z["previous"])
            if number < sabotaged:
                stale = {PUSHED: f"next {rate}", "previous": PUSHED}
                found["stale"] += healthy.named(stale).looked_at()[2]
                found["shifted"] += healthy.shifted().named({n: n for n in usual}).looked_at()[2]
                one = rng.choice([k for k in kept if "scaled" in k])
                for kind in ("scaled", "heated"):
                    found[kind] += drawn(one[kind], rng).looked_at()[2]
        caught = " | ".join(
            f"{found[kind]} of {sabotaged}" for kind in ("stale", "scaled", "heated", "shifted")
        )
        rows.append(
            f"| {rate} | {found['alarm']}, {found['stopped']} of {pushes} | {max(worst):.1f} "
            f"| {spread(previous)}, {false_stops(previous):.1e} "
            f"| {found['unprovable']}, of them the version before {found['unprovable previous']} | {caught} |"
        )
    return "\n".join(rows)


def drawn(kept: Mapping[str, Any], rng: random.Random) -> Answered:
    answered = Answered.of(kept)
    prompts = sorted({sample.prompt_ids for sample in answered.samples})
    return answered.some(set(rng.sample(prompts, max(1, len(prompts) * 3 // 4))))


def spread(z: Sequence[float]) -> str:
    mean = sum(z) / len(z)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in z) / len(z))
    return f"{mean:+.1f} ± {deviation:.2f}"


def false_stops(z: Sequence[float]) -> float:
    """In 10,000 pushes, if the z of the version before is normal with the mean and spread that it has."""
    mean = sum(z) / len(z)
    deviation = max(1.0, math.sqrt(sum((x - mean) ** 2 for x in z) / len(z)))
    limit = math.sqrt(2 * math.log(10 / 1e-5))
    return 1e4 * math.erfc((limit - mean) / deviation / math.sqrt(2)) / 2
