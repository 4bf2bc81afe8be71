"""Measures of two sides' logprobs, and what is made of them."""

import pytest
import torch

from trainer.online.logprob_mismatch import Mismatch, diagnose, shift_mismatches


def test_a_mismatch_is_over_tokens_not_over_completions() -> None:
    server = [torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([-0.5])]
    trainer = [torch.tensor([-1.0, -1.0, -3.5]), torch.tensor([-0.5])]
    # Differences 0, -1, 0.5 and 0.
    assert Mismatch.between(server, trainer) == Mismatch(
        mean=0.375, max=1.0, bias=-0.125, num_tokens=4
    )


@pytest.mark.parametrize(
    ("server", "before", "after"),
    [
        # Each is the trainer's of the token before; the first has none.
        ([9.0, -1.0, -2.0], 0.0, 7.0),
        ([-2.0, -4.0, 9.0], 7.0, 0.0),
        ([-1.0, -2.0, -4.0], 1.5, 1.5),
    ],
)
def test_a_shift_by_one_token_fits_in_its_direction_alone(
    server: list[float], before: float, after: float
) -> None:
    # What stands beside has a single token, which no shift can be seen in.
    measured = shift_mismatches(
        [torch.tensor(server), torch.tensor([5.0])],
        [torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([-5.0])],
    )
    assert list(measured.values()) == [before, after]


def test_completions_of_one_token_say_nothing_of_shifts() -> None:
    assert shift_mismatches([torch.tensor([1.0])], [torch.tensor([2.0])]) == {}


@pytest.mark.parametrize(
    ("explanations", "cause"),
    [
        ({"version 11": 1e-7, "top_p 1": 0.2}, "fit version 11: mean |difference| 1e-07"),
        ({"version 11": 0.2, "top_p 1": 0.09}, "fit top_p 1: mean |difference| 0.09"),
        # Of two that fit alike the earlier.
        ({"version 11": 0.0, "the base": 0.0}, "fit version 11"),
        # Half of the mismatch would be left: that explains nothing.
        ({"version 11": 0.1, "top_p 1": 0.3}, "another base model or dtype"),
        ({"version 11": float("nan")}, "another base model or dtype"),
    ],
)
def test_a_cause_is_named_where_it_explains_most_of_the_mismatch(
    explanations: dict[str, float], cause: str
) -> None:
    assert cause in diagnose(0.2, explanations)
