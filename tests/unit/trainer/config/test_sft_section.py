"""How many demonstrations one forward pass takes."""

from typing import Any

import pytest

from trainer.config.sections import SFTConfig


@pytest.mark.parametrize(
    ("settings", "longest_tokens", "examples"),
    [
        ({"batch_size": 16, "token_budget": 1024}, 64, 16),
        ({"batch_size": 16, "token_budget": 1024}, 65, 8),  # 15 fit, and 8 divides 16
        ({"batch_size": 16, "token_budget": 1024}, 1024, 1),
        (
            {"batch_size": 16, "token_budget": 1024},
            5000,
            1,
        ),  # whole examples, whatever their length
        ({"batch_size": 6, "token_budget": 50}, 10, 3),
        ({"batch_size": 6, "token_budget": 10_000}, 10, 6),
        ({"batch_size": 16, "micro_batch_size": 4}, 5000, 4),
        ({"batch_size": 16, "packing": True}, 10, 1),
        ({"batch_size": 16, "packing": True, "micro_batch_size": 2}, 10, 2),
    ],
)
def test_a_pass_takes_what_the_budget_allows(
    settings: dict[str, Any], longest_tokens: int, examples: int
) -> None:
    assert SFTConfig(**settings).examples_per_pass(longest_tokens) == examples
