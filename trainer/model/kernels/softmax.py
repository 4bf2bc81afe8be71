"""Logprobs of sampled tokens and entropies, for which logits are read only once, and the logits' gradient."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from trainer.model.kernels.elementwise import add

_BLOCK = 4096
"""How many logits a program reads at once."""


def logprobs_and_entropy(
    logits: Tensor, temperature: Tensor, token_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logprobs and entropies of the distributions that logits define at each row's temperature.

    Args:
        logits: [n, V] float32, contiguous.
        temperature: [n]
        token_ids: [n] the tokens whose logprobs are computed.

    Returns:
        [n] logprobs, [n] entropies in nats, and [n] the logarithms of the sums of exponentials.
    """
    # These may be strided columns of other tensors.
    temperature, token_ids = temperature.contiguous(), token_ids.contiguous()
    found = [logits.new_empty(len(logits)) for _ in range(3)]
    block = min(_BLOCK, triton.next_power_of_2(logits.shape[1]))
    _logprobs_kernel[(len(logits),)](
        *(logits, temperature, token_ids, *found, logits.shape[1]), BLOCK=block, num_warps=8
    )
    logprobs, entropy, log_sum = found
    return logprobs, entropy, log_sum


def logprobs_gradient(
    logits: Tensor,
    temperature: Tensor,
    token_ids: Tensor,
    log_sum: Tensor,
    of_logprobs: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """[n, V] the logits' gradient.

    It is the logprob's gradient times (1 at its token, else 0, minus the probability) / temperature.

    Args:
        logits, temperature, token_ids: As in `logprobs_and_entropy`.
        log_sum: [n] as returned by `logprobs_and_entropy`.
        of_logprobs: [n] the logprobs' gradient.
        dtype: The dtype of the result.
    """
    num_tokens, vocabulary = logits.shape
    temperature, token_ids = temperature.contiguous(), token_ids.contiguous()
    of_logprobs = of_logprobs.contiguous()
    out = torch.empty_like(logits, dtype=dtype)
    block = min(_BLOCK, triton.next_power_of_2(vocabulary))
    _gradient_kernel[(num_tokens, triton.cdiv(vocabulary, block))](
        *(logits, temperature, token_ids, log_sum, of_logprobs, out, vocabulary),
        BLOCK=block,
        num_warps=8,
    )
    return out


@triton.jit
def _larger(a, b):
    return tl.where(a > b, a, b)


@triton.jit
def _logprobs_kernel(
    logits, temperature, token_ids, logprobs, entropy, log_sums, vocabulary, BLOCK: tl.constexpr
):
    """One program per token sums exponentials relative to the largest logit so far, and their products with logits."""
    row = tl.program_id(0).to(tl.int64)
    heat = tl.load(temperature + row)
    largest = -1e30
    mass = 0.0
    moment = 0.0
    for start in range(0, vocabulary, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < vocabulary
        x = tl.load(logits + row * vocabulary + column, mask=inside, other=-1e30) / heat
        larger = _larger(largest, tl.reduce(x, 0, _larger))
        shrunk = tl.exp(largest - larger)
        part = tl.where(inside, tl.exp(x - larger), 0.0)
        moment = shrunk * (moment + (largest - larger) * mass)
        # A logit of minus infinity has probability 0; the product of the two would be NaN.
        moment += tl.reduce(part * tl.where(part > 0, x - larger, 0.0), 0, add)
        mass = mass * shrunk + tl.reduce(part, 0, add)
        largest = larger
    token = tl.load(token_ids + row)
    log_sum = largest + tl.log(mass)
    tl.store(logprobs + row, tl.load(logits + row * vocabulary + token) / heat - log_sum)
    tl.store(entropy + row, tl.log(mass) - moment / mass)
    tl.store(log_sums + row, log_sum)


@triton.jit
def _gradient_kernel(
    logits, temperature, token_ids, log_sums, of_logprobs, out, vocabulary, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < vocabulary
    heat = tl.load(temperature + row)
    x = tl.load(logits + row * vocabulary + column, mask=inside, other=0.0) / heat
    probability = tl.exp(x - tl.load(log_sums + row))
    is_token = tl.where(column == tl.load(token_ids + row), 1.0, 0.0)
    scale = tl.load(of_logprobs + row) / heat
    tl.store(out + row * vocabulary + column, (is_token - probability) * scale, mask=inside)
