"""When the weight-sync check computes what a server may serve instead, and when it does without."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from trainer.config.sections import TrainConfig
from trainer.errors import SyncError
from trainer.model.batches.sample import Sample
from trainer.online.weight_sync.alternatives import PUSHED
from trainer.online.weight_sync.check import SyncCheck

NOISE = 0.01
STALE = "version 0"


@dataclass
class Explained:
    """Completions whose server logprobs are those of the pushed version or of the one before, with some noise."""

    serves: str = PUSHED
    noise: float = NOISE
    num_completions: int = 64
    version: int = 1
    compared: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = random.Random(0)
        lengths = [16] * self.num_completions
        trainer = {
            name: [torch.tensor([rng.uniform(-3, -0.1) for _ in range(n)]) for n in lengths]
            for name in (PUSHED, STALE)
        }
        self.samples = [
            Sample(
                prompt_ids=(number,),
                completion_ids=tuple(rng.choices(range(1000), k=len(served))),
                sampler_logprobs=tuple(
                    x - math.expm1(x) * rng.gauss(0, self.noise) for x in served.tolist()
                ),
                temperature=1.0,
                top_p=1.0,
                reward=float(number),
                truncated=True,
                version=self.version,
            )
            for number, served in enumerate(trainer[self.serves])
        ]
        self.trainer = trainer

    def usual(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        self.compared.append("usual")
        return {name: self._of(samples, name) for name in (PUSHED, STALE)}

    def scaled_adapters(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        self.compared.append("scaled")
        return {}

    def finer(self, samples: Sequence[Sample]) -> dict[str, list[Tensor]]:
        return {}

    def _of(self, samples: Sequence[Sample], name: str) -> list[Tensor]:
        return [self.trainer[name][int(s.reward)][: len(s.completion_ids)] for s in samples]


def make_check(*usual: float, limit: float | None = None) -> SyncCheck:
    config = TrainConfig.model_validate({"ppo": {"max_logprob_mismatch": limit}})
    past = [{"sync/noise": x} for x in usual]
    return SyncCheck(config, server_dtype="bfloat16", past=past)


def proven(check: SyncCheck, explained: Explained) -> dict[str, float]:
    outcome = check.prove(
        explained.samples,
        explained,
        pushed=explained.trainer[PUSHED],
        ask_more=list,
    )
    return dict(outcome.metrics)


def test_the_first_versions_are_compared_and_then_the_noise_vouches_for_them() -> None:
    check = make_check()
    compared = []
    for version in range(1, 7):
        explained = Explained(version=version)
        metrics = proven(check, explained)
        compared.append(bool(explained.compared))
        assert ("sync/worst_z" in metrics) == ("sync/unprovable" in metrics) == compared[-1]
        # The typical |x| of a normal distribution is 0.67 deviations.
        assert metrics["sync/noise"] == pytest.approx(0.67 * NOISE, rel=0.15)
    assert compared == [True, True, True, False, False, False]


def test_noise_above_the_usual_is_looked_into() -> None:
    check = make_check(0.0067, 0.0067, 0.0067)
    noisier = Explained(noise=2 * NOISE)
    metrics = proven(check, noisier)
    assert noisier.compared == ["usual", "scaled"]
    assert metrics["sync/worst_z"] < 0


def test_a_stale_server_is_found_by_its_noise() -> None:
    stale = Explained(serves=STALE)
    with pytest.raises(SyncError, match="fit version 0: "):
        proven(make_check(0.0067, 0.0067, 0.0067), stale)


@pytest.mark.parametrize("limit", [None, 0.1])
def test_a_trainer_without_a_single_number_proves_nothing(limit: float | None) -> None:
    unknown = Explained()
    for name, logprobs in unknown.trainer.items():
        unknown.trainer[name] = [torch.full_like(x, math.nan) for x in logprobs]
    with pytest.raises(SyncError, match="version 1 fails the weight-sync check: over 0 tokens"):
        proven(make_check(limit=limit), unknown)


def test_the_users_limit_is_looked_into() -> None:
    check = make_check(0.0067, 0.0067, 0.0067, limit=1e-4)
    explained = Explained()
    with pytest.raises(SyncError, match=r"ppo\.max_logprob_mismatch is 0\.0001"):
        proven(check, explained)


def test_float32s_own_noise_is_not_looked_into_after_none_at_all() -> None:
    explained = Explained(noise=1e-7)
    proven(make_check(0.0, 0.0, 0.0), explained)
    assert not explained.compared


def test_alternatives_are_compared_again_after_many_tokens() -> None:
    check = make_check(0.0067, 0.0067, 0.0067)
    few, many = Explained(), Explained(num_completions=7_000)
    proven(check, few)
    assert not few.compared
    proven(check, many)
    assert many.compared
    again = Explained()
    proven(check, again)
    assert not again.compared
