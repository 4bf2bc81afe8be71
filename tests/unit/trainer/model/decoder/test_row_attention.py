"""Attention in blocks of queries against attention of all queries at once, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from trainer.model.decoder.row_attention import query_blocks, row_attention

SCALE = 0.3


def random_trees(num_rows: int, width: int) -> Tensor:
    """[R, 1, W, W] whether a query attends to a key in random trees, as `TokenRows.attention_mask` has it."""
    nodes = torch.arange(width)
    ends = nodes + 1 + torch.randint(0, width, (num_rows, width)) % (width - nodes)
    return attends(ends)


def side_by_side(num_rows: int, width: int) -> Tensor:
    """The same for trees of 130 tokens, each with a prompt of 50 and two completions of 40."""
    nodes = torch.arange(width)
    starts = nodes // 130 * 130
    ends = torch.where(nodes % 130 < 50, starts + 130, starts + 90 + 40 * (nodes % 130 >= 90))
    return attends(ends.clamp(max=width).expand(num_rows, -1))


def attends(ends: Tensor) -> Tensor:
    nodes = torch.arange(ends.shape[1])
    queries = nodes.unsqueeze(1)
    return ((nodes <= queries) & (queries < ends.unsqueeze(1))).unsqueeze(1)


def heads(num_rows: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """[R, heads, W, D] in a layer's memory layout: tokens come before heads."""
    return torch.randn(num_rows, width, 3, 8, dtype=dtype).transpose(1, 2)


def computed(
    inputs: list[Tensor], weights: Tensor, mask: Tensor, *, in_blocks: bool
) -> list[Tensor]:
    """Attention's output, and the gradients of its inputs."""
    q, k, v = (x.clone().requires_grad_() for x in inputs)
    if in_blocks:
        out = row_attention(q, k, v, query_blocks(mask, q.dtype), SCALE)
    else:
        out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=SCALE)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), weights)]


@pytest.mark.parametrize("trees", [random_trees, side_by_side])
@pytest.mark.parametrize("width", [5, 95, 159, 160, 255, 256, 500, 577])
def test_blocks_are_the_whole_with_its_gradients(
    trees: Callable[[int, int], Tensor], width: int
) -> None:
    torch.manual_seed(width)
    mask = trees(2, width)
    inputs, weights = [heads(2, width) for _ in range(3)], heads(2, width)
    found = [computed(inputs, weights, mask, in_blocks=x) for x in (True, False)]
    for ours, exact in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-12)


def test_gradients_in_bfloat16_are_rounded_once() -> None:
    torch.manual_seed(0)
    mask = random_trees(1, 1500)
    inputs = [heads(1, 1500, torch.bfloat16) for _ in range(3)]
    weights = heads(1, 1500, torch.bfloat16)
    exact = computed([x.double() for x in inputs], weights.double(), mask, in_blocks=False)
    ours, whole = (
        [
            float((x.double() - y).norm() / y.norm())
            for x, y in zip(computed(inputs, weights, mask, in_blocks=b), exact, strict=True)
        ]
        for b in (True, False)
    )
    assert all(a <= 1.1 * b for a, b in zip(ours, whole, strict=True)), (ours, whole)


def test_what_no_query_of_a_block_attends_to_is_not_computed() -> None:
    # The second tree's keys are not looked at for the first's queries, nor the first's for queries of the third,
    # so a NaN there does no harm.
    torch.manual_seed(0)
    blocks = query_blocks(side_by_side(1, 390), torch.float64)
    assert [(b.queries, b.keys) for b in blocks] == [
        (slice(0, 96), (slice(0, 96),)),
        (slice(96, 192), (slice(0, 50), slice(90, 192))),
        (slice(192, 288), (slice(130, 288),)),
        (slice(288, 390), (slice(260, 390),)),
    ]
    q, k, v = (heads(1, 390) for _ in range(3))
    k[:, :, 130:260] = torch.nan
    out = row_attention(q, k, v, blocks, SCALE)
    assert out[:, :, :96].isfinite().all()
    assert out[:, :, 288:].isfinite().all()
    assert not out[:, :, 130:260].isfinite().any()


def test_a_gpus_rows_are_one_block() -> None:
    (block,) = query_blocks(side_by_side(1, 390).to("meta"), torch.bfloat16)
    assert (block.queries, block.keys) == (slice(0, 390), (slice(0, 390),))
    assert block.mask.stride()[-2] == 400
