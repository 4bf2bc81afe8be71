"""Attention in blocks of queries against all of it at once, in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trainer.model.decoder.row_attention import row_attention

SCALE = 0.3


def tree_mask(num_rows: int, width: int) -> Tensor:
    """[R, 1, W, W] minus infinity but for ancestors in random trees, as `TokenRows.attention_mask` has it."""
    nodes = torch.arange(width)
    ends = nodes + 1 + torch.randint(0, width, (num_rows, width)) % (width - nodes)
    queries = nodes.unsqueeze(1)
    attends = (nodes <= queries) & (queries < ends.unsqueeze(1))
    return torch.zeros(num_rows, 1, width, width, dtype=torch.float64).masked_fill_(
        ~attends.unsqueeze(1), -torch.inf
    )


def heads(num_rows: int, width: int) -> Tensor:
    """[R, heads, W, D] as a layer gives them: the tokens before the heads in memory."""
    return torch.randn(num_rows, width, 3, 8, dtype=torch.float64).transpose(1, 2)


@pytest.mark.parametrize("width", [5, 193, 319, 320, 500, 512, 577])
def test_blocks_are_the_whole_with_its_gradients(width: int) -> None:
    torch.manual_seed(width)
    mask = tree_mask(2, width)
    inputs = [heads(2, width) for _ in range(3)]
    weights = heads(2, width)
    found = []
    for attention in (row_attention, _at_once):
        q, k, v = (x.clone().requires_grad_() for x in inputs)
        out = attention(q, k, v, mask, SCALE)
        found.append([out, *torch.autograd.grad(out, (q, k, v), weights)])
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


def _at_once(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


def test_later_keys_are_not_computed() -> None:
    # What is above the diagonal is not looked at in other blocks' keys, so a NaN there does no harm.
    torch.manual_seed(0)
    q, k, v = (heads(1, 400) for _ in range(3))
    k[:, :, 192:] = torch.nan
    out = row_attention(q, k, v, tree_mask(1, 400), SCALE)
    assert out[:, :, :192].isfinite().all()
    assert not out[:, :, 192:].isfinite().any()
