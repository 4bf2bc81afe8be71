"""An update's diagnostics in limiting cases."""

import pytest
import torch

from trainer.ppo.diagnostics import explained_variance


@pytest.mark.parametrize(
    ("values", "returns", "expected"),
    [
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], 1.0),
        ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0], 0.0),
        ([2.0, 1.0, 0.0], [0.0, 1.0, 2.0], -3.0),
        # Equal returns, and equal ones but for their rounding.
        ([0.3, -0.2, 0.1], [-0.5, -0.5, -0.5], 0.0),
        ([0.3, -0.2, 0.1], [-0.5, -0.50000006, -0.5], 0.0),
        ([0.3], [0.1], 0.0),
    ],
)
def test_explained_variance(values: list[float], returns: list[float], expected: float) -> None:
    found = explained_variance(torch.tensor(values), torch.tensor(returns))
    assert found == pytest.approx(expected, abs=1e-6)
