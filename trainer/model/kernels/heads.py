"""Rotation of queries and keys by their positions; `trainer.model.decoder.fused` has the same for a CPU."""

import triton
import triton.language as tl
from torch import Tensor


def rotate_heads(
    heads: Tensor, values: Tensor, cos: Tensor, sin: Tensor, num_q: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries, rotated and repeated keys, and repeated values, each [R, query heads, W, D].

    Args:
        heads: [R, W, heads, D] query heads, then key heads.
        values: [R, W, key heads, D]
        cos: [R, W, 1, D] the same numbers in both halves.
        sin: [R, W, 1, D] the same numbers in both halves, but negated in the first.
        num_q: The number of query heads.
    """
    num_rows, width, num_k, head_dim = values.shape
    outs = [values.new_empty((num_rows, width, num_q, head_dim)) for _ in range(3)]
    _rotate_kernel[(num_rows * width,)](
        *(heads, values, cos, sin, *outs),
        *(heads.stride(1), values.stride(1), cos.stride(1)),
        NUM_Q=num_q,
        NUM_K=num_k,
        HALF=head_dim // 2,
        **_padded(num_q + num_k, num_k, head_dim // 2),
    )
    q, k, v = (out.transpose(1, 2) for out in outs)
    return q, k, v


def rotate_heads_gradient(
    of_q: Tensor, of_k: Tensor, of_v: Tensor, cos: Tensor, sin: Tensor, num_k: int
) -> Tensor:
    """[R, W, query, key and value heads, D] the gradients of `rotate_heads`' inputs, side by side.

    The gradient of a repeated head is the sum over its copies.

    Args:
        of_q, of_k, of_v: Each [R, query heads, W, D].
        cos, sin: As in `rotate_heads`.
        num_k: The number of key heads.
    """
    num_rows, num_q, width, head_dim = of_q.shape
    out = of_q.new_empty((num_rows, width, num_q + 2 * num_k, head_dim))
    strides = [x.stride(i) for x in (of_q, of_k, of_v) for i in range(3)]
    _rotate_gradient_kernel[(num_rows * width,)](
        *(of_q, of_k, of_v, cos, sin, out, width, *strides, cos.stride(1)),
        NUM_Q=num_q,
        NUM_K=num_k,
        HALF=head_dim // 2,
        **_padded(num_q, num_k, head_dim // 2),
    )
    return out


def _padded(num_heads: int, num_k: int, half: int) -> dict[str, int]:
    """The sizes of a program's blocks, which have to be powers of two."""
    sizes = {"HEADS": num_heads, "KEYS": num_k, "COLUMNS": half}
    return {name: triton.next_power_of_2(size) for name, size in sizes.items()}


@triton.jit
def _rotate_kernel(
    heads,
    values,
    cos,
    sin,
    q,
    k,
    v,
    heads_stride,
    values_stride,
    angle_stride,
    NUM_Q: tl.constexpr,
    NUM_K: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program computes all heads of one token."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_column = column < HALF
    # The halves of cos are equal; only the first half of sin is negated, so the second is read.
    turn = token * angle_stride + column
    c = tl.load(cos + turn, mask=is_column).to(tl.float32)[None, :]
    s = tl.load(sin + HALF + turn, mask=is_column).to(tl.float32)[None, :]
    start = token * NUM_Q * 2 * HALF + column[None, :]

    head = tl.arange(0, HEADS)[:, None]
    inside = (head < NUM_Q + NUM_K) & is_column[None, :]
    source = heads + token * heads_stride + head * 2 * HALF + column[None, :]
    low = tl.load(source, mask=inside).to(tl.float32)
    high = tl.load(source + HALF, mask=inside).to(tl.float32)
    turned_low, turned_high = low * c - high * s, high * c + low * s
    is_q, is_k = inside & (head < NUM_Q), inside & (head >= NUM_Q)
    tl.store(q + start + head * 2 * HALF, turned_low, mask=is_q)
    tl.store(q + start + head * 2 * HALF + HALF, turned_high, mask=is_q)

    key = tl.arange(0, KEYS)[:, None]
    is_key = (key < NUM_K) & is_column[None, :]
    of_value = values + token * values_stride + key * 2 * HALF + column[None, :]
    value_low = tl.load(of_value, mask=is_key)
    value_high = tl.load(of_value + HALF, mask=is_key)
    for copy in tl.static_range(NUM_Q // NUM_K):
        target = k + start + ((head - NUM_Q) * (NUM_Q // NUM_K) + copy) * 2 * HALF
        tl.store(target, turned_low, mask=is_k)
        tl.store(target + HALF, turned_high, mask=is_k)
        target = v + start + (key * (NUM_Q // NUM_K) + copy) * 2 * HALF
        tl.store(target, value_low, mask=is_key)
        tl.store(target + HALF, value_high, mask=is_key)


@triton.jit
def _rotate_gradient_kernel(
    of_q,
    of_k,
    of_v,
    cos,
    sin,
    out,
    width,
    q_row,
    q_head,
    q_token,
    k_row,
    k_head,
    k_token,
    v_row,
    v_head,
    v_token,
    angle_stride,
    NUM_Q: tl.constexpr,
    NUM_K: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One program rotates all heads of one token back."""
    token = tl.program_id(0).to(tl.int64)
    row, place = token // width, token % width
    column = tl.arange(0, COLUMNS)
    is_column = column < HALF
    turn = token * angle_stride + column
    c = tl.load(cos + turn, mask=is_column).to(tl.float32)[None, :]
    s = tl.load(sin + HALF + turn, mask=is_column).to(tl.float32)[None, :]
    start = out + token * (NUM_Q + 2 * NUM_K) * 2 * HALF + column[None, :]

    head = tl.arange(0, HEADS)[:, None]
    inside = (head < NUM_Q) & is_column[None, :]
    source = of_q + row * q_row + place * q_token + head * q_head + column[None, :]
    low = tl.load(source, mask=inside).to(tl.float32)
    high = tl.load(source + HALF, mask=inside).to(tl.float32)
    tl.store(start + head * 2 * HALF, low * c + high * s, mask=inside)
    tl.store(start + head * 2 * HALF + HALF, high * c - low * s, mask=inside)

    key = tl.arange(0, KEYS)[:, None]
    is_key = (key < NUM_K) & is_column[None, :]
    low = tl.full((KEYS, COLUMNS), 0.0, tl.float32)
    high, value_low, value_high = low, low, low
    for copy in tl.static_range(NUM_Q // NUM_K):
        repeated = key * (NUM_Q // NUM_K) + copy
        source = of_k + row * k_row + place * k_token + repeated * k_head + column[None, :]
        low += tl.load(source, mask=is_key, other=0.0).to(tl.float32)
        high += tl.load(source + HALF, mask=is_key, other=0.0).to(tl.float32)
        source = of_v + row * v_row + place * v_token + repeated * v_head + column[None, :]
        value_low += tl.load(source, mask=is_key, other=0.0).to(tl.float32)
        value_high += tl.load(source + HALF, mask=is_key, other=0.0).to(tl.float32)
    target = start + (NUM_Q + key) * 2 * HALF
    tl.store(target, low * c + high * s, mask=is_key)
    tl.store(target + HALF, high * c - low * s, mask=is_key)
    tl.store(target + NUM_K * 2 * HALF, value_low, mask=is_key)
    tl.store(target + NUM_K * 2 * HALF + HALF, value_high, mask=is_key)
