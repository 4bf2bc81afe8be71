"""Measures of two sides' logprobs."""

import math

import torch

from trainer.online.weight_sync.mismatch import Mismatch


def test_a_mismatch_is_over_the_tokens_that_the_trainer_has_numbers_of() -> None:
    server = torch.tensor([-1.0, -2.0, -3.0, -0.5, -7.0])
    trainer = torch.tensor([-1.0, -1.0, -3.5, -0.5, torch.nan])
    # Differences 0, -1, 0.5 and 0.
    assert Mismatch.between(server, trainer) == Mismatch(
        mean=0.375, max=1.0, bias=-0.125, num_tokens=4
    )


def test_without_such_tokens_every_difference_is_unknown() -> None:
    found = Mismatch.between(torch.tensor([-1.0]), torch.tensor([torch.nan]))
    assert all(math.isnan(x) for x in (found.mean, found.max, found.bias))
    assert found.num_tokens == 0
