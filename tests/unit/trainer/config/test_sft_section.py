"""How many demonstrations one forward pass takes, and which adapter SFT starts from."""

from pathlib import Path
from typing import Any

import pytest

from trainer.config.sections import PolicyConfig, SFTConfig, SFTRunConfig


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


@pytest.mark.parametrize(
    ("adapter", "starts"),
    [
        (None, False),
        ("runs/other", True),
        ("runs/sft/adapter", True),
        ("runs/sft", False),
        ("./runs/x/../sft/", False),
        ("linked", False),
        ("{here}/runs/sft", False),
    ],
)
def test_sft_starts_from_an_adapter_that_is_not_its_output(
    adapter: str | None, starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("linked").symlink_to("runs/sft")
    path = None if adapter is None else Path(adapter.format(here=tmp_path))
    asked = SFTRunConfig(policy=PolicyConfig(adapter=path), output=Path("runs/sft"))
    assert asked.starting_adapter == (path if starts else None)
