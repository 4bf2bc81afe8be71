"""Our LoRA kernels against vLLM's own, on random layers and batches."""

import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

NUM_SLOTS, RANK, HIDDEN, VOCAB = 4, 8, 48, 40
SLICES = (48, 16, 16)
# vLLM's ids of the adapters in the slots; slot 2 is empty.
SLOT_IDS = [7, 3, None, 9]

# Adapter of each sequence in a batch, 0 for the base model.
BATCHES = {
    "one adapter": [3] * 5,
    "base alone": [0] * 4,
    "several, mixed": [3, 0, 9, 7, 3, 3, 0, 9],
    "an adapter and the base": [7, 0, 7],
    "one sequence": [9],
    "few of another": [3] * 8 + [9],
    "few of two others and the base": [3, 9, *[3] * 14, 0, 7],
    "few beside the base": [0] * 6 + [7],
}


@dataclass
class Mapping:
    """The part of vLLM's LoRAMapping that the wrappers read."""

    index_mapping: tuple[int, ...]
    prompt_mapping: tuple[int, ...]
    is_prefill: bool = True


@pytest.fixture(scope="module")
def wrappers() -> tuple[Any, Any]:
    # vllm is imported only here, since that takes seconds and other tests run without it.
    with warnings.catch_warnings():
        # The first test to import it would get the warnings of its imports.
        warnings.simplefilter("ignore")
        from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

        from inference_server.vllm.cpu.lora import GroupedPunicaWrapper

    return PunicaWrapperCPU, GroupedPunicaWrapper


def make(wrapper: Any, sequences: list[int], tokens_each: int) -> tuple[Any, int]:
    made = wrapper(max_num_batched_tokens=256, max_batches=64, device=torch.device("cpu"))
    tokens = tuple(lora for lora in sequences for _ in range(tokens_each))
    made.update_metadata(Mapping(tokens, tuple(sequences)), SLOT_IDS, NUM_SLOTS, VOCAB)
    return made, len(tokens)


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape).to(dtype)


@pytest.mark.parametrize("tokens_each", [1, 6], ids=["decode", "prefill"])
@pytest.mark.parametrize("sequences", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=str
)
def test_the_products_are_vllms_own(
    wrappers: tuple[Any, Any],
    sequences: list[int],
    tokens_each: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    torch.manual_seed(0)
    a = tuple(random(NUM_SLOTS, 1, RANK, HIDDEN, dtype=dtype) / HIDDEN for _ in SLICES)
    b = tuple(random(NUM_SLOTS, 1, width, RANK, dtype=dtype) for width in SLICES)
    has_adapter = torch.tensor([lora > 0 for lora in sequences])
    results = []
    for wrapper in wrappers:
        torch.manual_seed(1)
        made, num_tokens = make(wrapper, sequences, tokens_each)
        x = random(num_tokens, HIDDEN, dtype=dtype)
        y = random(num_tokens, sum(SLICES), dtype=dtype)
        made.add_lora_linear(y, x, a, b, 0.5, SLICES)
        embedded = random(num_tokens, HIDDEN, dtype=dtype)
        made.add_lora_embedding(embedded, x[:, :RANK].float(), b[0], add_inputs=True)
        # The base pads its vocabulary, the adapter does not.
        logits = random(len(sequences), VOCAB + 8, dtype=dtype)
        head = random(NUM_SLOTS, 1, VOCAB, RANK, dtype=dtype)
        made.add_lora_logits(logits, x[: len(sequences)], a[0], head, 1.0)
        of_tokens = has_adapter.repeat_interleave(tokens_each)
        results.append((y[of_tokens], embedded[of_tokens], logits[has_adapter]))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("sequences", [[0, 0], [0, 9, 0, 3]], ids=["alone", "beside adapters"])
def test_the_base_model_is_left_alone(wrappers: tuple[Any, Any], sequences: list[int]) -> None:
    """With vLLM's own kernels, a base token beside tokens of adapters gets the adapter of the last slot."""
    _, grouped = wrappers
    made, num_tokens = make(grouped, sequences, 3)
    x, y = torch.randn(num_tokens, HIDDEN), torch.randn(num_tokens, HIDDEN)
    before = y.clone()
    a, b = torch.randn(NUM_SLOTS, 1, RANK, HIDDEN), torch.randn(NUM_SLOTS, 1, HIDDEN, RANK)
    made.add_lora_linear(y, x, (a,), (b,), 1.0, (HIDDEN,))
    is_base = torch.tensor([lora == 0 for lora in sequences]).repeat_interleave(3)
    assert torch.equal(y[is_base], before[is_base])
    assert not (y[~is_base] == before[~is_base]).all(dim=1).any()
    logits = before[: len(sequences)].clone()
    made.add_lora_logits(logits, x[: len(sequences)], a, b, 1.0)
    assert torch.equal(logits[is_base[::3]], before[: len(sequences)][is_base[::3]])


def test_an_adapter_that_overflows_spoils_no_other(wrappers: tuple[Any, Any]) -> None:
    _, grouped = wrappers
    made, num_tokens = make(grouped, [7, 3, 0], 2)
    x, y = torch.randn(num_tokens, HIDDEN), torch.randn(num_tokens, HIDDEN)
    a, b = torch.randn(NUM_SLOTS, 1, RANK, HIDDEN), torch.randn(NUM_SLOTS, 1, HIDDEN, RANK)
    a[0] = 3e38  # the slot of adapter 7
    made.add_lora_linear(y, x, (a,), (b,), 1.0, (HIDDEN,))
    assert not y[:2].isfinite().all()
    assert y[2:].isfinite().all()


def test_an_adapter_that_takes_anothers_slot_counts_at_once(wrappers: tuple[Any, Any]) -> None:
    _, grouped = wrappers
    made, num_tokens = make(grouped, [7, 3], 1)
    x = torch.randn(num_tokens, HIDDEN)
    a, b = torch.randn(NUM_SLOTS, 1, RANK, HIDDEN), torch.randn(NUM_SLOTS, 1, HIDDEN, RANK)
    for _ in range(2):
        y = torch.zeros(num_tokens, HIDDEN)
        made.add_lora_linear(y, x, (a,), (b,), 1.0, (HIDDEN,))
        for row, slot in enumerate([0, 1]):
            torch.testing.assert_close(y[row], x[row] @ a[slot, 0].T @ b[slot, 0].T)
        with torch.inference_mode():  # as vLLM does between two steps
            b[1].copy_(torch.randn(1, HIDDEN, RANK))
            a[1].copy_(torch.randn(1, RANK, HIDDEN))


def test_a_layer_keeps_the_matrices_of_few_sets_of_slots(wrappers: tuple[Any, Any]) -> None:
    _, grouped = wrappers
    ids = list(range(1, 7))
    a, b = torch.randn(6, 1, RANK, HIDDEN), torch.randn(6, 1, HIDDEN, RANK)
    made = grouped(max_num_batched_tokens=256, max_batches=64, device=torch.device("cpu"))
    for pair in combinations(ids, 2):
        made.update_metadata(Mapping(pair, pair), ids, len(ids), VOCAB)
        x, y = torch.randn(2, HIDDEN), torch.zeros(2, HIDDEN)
        made.add_lora_linear(y, x, (a,), (b,), 1.0, (HIDDEN,))
        for row, adapter in enumerate(pair):
            expected = x[row] @ a[adapter - 1, 0].T @ b[adapter - 1, 0].T
            torch.testing.assert_close(y[row], expected)
    (kept,) = made._pairs_of_layer.values()
    assert len(kept) == 8


def test_the_plugin_is_what_vllm_finds(wrappers: tuple[Any, Any]) -> None:
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from inference_server.vllm.cpu.lora import GroupedPunicaWrapper
    from inference_server.vllm.patches import register

    if not current_platform.is_cpu():
        pytest.skip("on a GPU vLLM keeps its own kernels")
    with warnings.catch_warnings():
        # Ignores warnings of what the patches import.
        warnings.simplefilter("ignore")
        register()
    assert resolve_obj_by_qualname(current_platform.get_punica_wrapper()) is GroupedPunicaWrapper
