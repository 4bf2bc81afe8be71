"""Computes what server and trainer each allocate, part by part. Sizes are in bytes.

Weights and adapters follow from the model's shape; `trainer.doctor.layer_memory` computes what a backward pass keeps.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from inference_server.wire.hardware import gpu
from inference_server.wire.hardware.cpu import CPU_MAX_BATCHED_TOKENS, CPU_MAX_NUM_SEQS
from trainer.config.sections import PolicyConfig, ServeConfig
from trainer.doctor.layer_memory import (
    FLOAT32,
    LayerBytes,
    dtype_bytes,
    fused_layer_bytes,
    layer_bytes,
)
from trainer.doctor.model_shape import ModelShape
from trainer.doctor.results import GIB
from trainer.model.dtype import with_dtype
from trainer.model.logprobs import CHUNK_LOGITS

# Bytes per weight: four bits, plus the scales: 8 bits for each 64 weights, and 32 bits for each 256 scales.
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
_NUM_ROLES = 4
_NUM_TRAINED_ROLES = 2

# Resident memory of the demo's processes less the parts counted here; benchmarks/README.md has the
# figures. The server has two processes; pages that they share are counted once.
_TRAINER_PROCESS = 0.62 * GIB
_SERVER_PROCESS = 1.45 * GIB
# Factor for a batch on a CPU, because the C heap keeps freed blocks: a server of SmolLM2-135M grew by 0.9 GiB,
# although a pass works with 0.32 GiB.
_HEAP = 2
# An estimate: a CUDA context with cuBLAS's workspaces.
_CUDA_CONTEXT = 0.6 * GIB
_SERVER_SETTINGS = {
    "weights": "the model",
    "LoRA slots": "serve.max_loaded_versions, serve.max_lora_rank",
    "a batch's activations": "--max-num-batched-tokens, serve.max_num_seqs",
    "sequences' states": "serve.max_num_seqs",
    "CUDA graphs": "--cudagraph-capture-sizes, --enforce-eager",
}
"""What decides each of the server's parts."""
# Memory that the trainer's allocator holds but cannot use, as a fraction of the activations and working memory.
_FRAGMENTATION = 0.05


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Size of a micro-batch; see `trainer.model.batches.batch`."""

    num_tokens: int
    """Rows × width."""
    width: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """One line of the plan."""

    name: str
    num_bytes: float
    settings: str = ""
    """The settings that decide it."""


def server_parts(shape: ModelShape, serve: ServeConfig, *, on_gpu: bool) -> Iterator[Part]:
    """The server's parts without the key-value cache."""
    served = shape.served
    if on_gpu:
        parts = gpu.memory_parts(
            served,
            max_lora_rank=serve.max_lora_rank,
            max_loaded_versions=serve.max_loaded_versions,
            max_num_seqs=serve.max_num_seqs or gpu.MAX_NUM_SEQS,
            max_num_batched_tokens=gpu.MAX_BATCHED_TOKENS,
        )
    else:
        slot = serve.max_lora_rank * (
            served.slot_parameters_per_rank + served.hidden_size + served.vocab_size
        )
        batch = gpu.batch_bytes(
            served,
            max_num_seqs=serve.max_num_seqs or CPU_MAX_NUM_SEQS,
            max_num_batched_tokens=CPU_MAX_BATCHED_TOKENS,
            bytes_per_number=FLOAT32,
        )
        parts = {
            "weights": served.num_parameters * FLOAT32,
            "LoRA slots": serve.max_loaded_versions * slot * FLOAT32,
            "a batch's activations": _HEAP * batch,
            "process": _SERVER_PROCESS,
        }
    if shape.state_bytes:
        num_sequences = serve.max_num_seqs or (gpu.MAX_NUM_SEQS if on_gpu else CPU_MAX_NUM_SEQS)
        parts["sequences' states"] = num_sequences * shape.state_bytes
    for name, num_bytes in parts.items():
        yield Part(name=name, num_bytes=num_bytes, settings=_SERVER_SETTINGS.get(name, ""))


def trainer_parts(
    shape: ModelShape, policy: PolicyConfig, rows: Rows, *, on_gpu: bool
) -> Iterator[Part]:
    """The trainer's parts at its peak, in an update with micro-batches of ``rows``."""
    policy = planned_policy(policy, on_gpu=on_gpu)
    yield from weight_parts(shape, policy)
    adapter = policy.lora_rank * shape.adapter_parameters_per_rank * FLOAT32
    head = shape.served.hidden_size * FLOAT32
    yield Part(
        name=f"{_NUM_ROLES} adapters",
        num_bytes=_NUM_ROLES * adapter + head,
        settings="policy.lora_rank, policy.target_modules",
    )
    trained = _NUM_TRAINED_ROLES * adapter + head
    yield Part(name="gradients", num_bytes=trained, settings="policy.lora_rank")
    yield Part(name="AdamW's moments", num_bytes=2 * trained, settings="policy.lora_rank")
    # Weights and moments from before the step, to restore if it fails; see PPOUpdate.
    yield Part(name="copies to undo a step", num_bytes=3 * trained, settings="policy.lora_rank")
    chunk = min(
        CHUNK_LOGITS["cuda" if on_gpu else "cpu"], rows.num_tokens * shape.served.vocab_size
    )
    is_fused = shape.is_fused and not (policy.autocast or policy.quantization or policy.shard_base)
    if is_fused:
        # A pass's copy of one adapter, and the gradients of the copy, which are kept until all are there.
        numbers = policy.lora_rank * shape.adapter_parameters_per_rank
        yield Part(
            name="a pass's copy of an adapter",
            num_bytes=2 * numbers * dtype_bytes(policy),
            settings="policy.lora_rank",
        )
    yield from activation_parts(
        shape,
        rows,
        (fused_layer_bytes if is_fused else layer_bytes)(shape, policy, rows.width),
        policy,
        logits_bytes=2 * chunk * FLOAT32,
        budget="ppo.token_budget",
        on_gpu=on_gpu,
    )
    yield process_part(on_gpu=on_gpu)


def weight_parts(shape: ModelShape, policy: PolicyConfig) -> Iterator[Part]:
    """The frozen base."""
    size = dtype_bytes(policy)
    in_four_bits = shape.num_linear_parameters if policy.quantization == "nf4" else 0
    yield Part(
        name="weights",
        num_bytes=in_four_bits * _NF4 + (shape.served.num_parameters - in_four_bits) * size,
        settings="policy.dtype, policy.quantization",
    )
    if in_four_bits:
        yield Part(name="one matrix, dequantized", num_bytes=shape.largest_matrix * size)


def activation_parts(
    shape: ModelShape,
    rows: Rows,
    of_layers: LayerBytes,
    policy: PolicyConfig,
    *,
    logits_bytes: float,
    budget: str,
    on_gpu: bool,
) -> Iterator[Part]:
    """The memory that a forward and a backward pass over ``rows`` keep and work with.

    Args:
        shape: The base model's.
        rows: The micro-batch.
        of_layers: What the layers keep.
        policy: Says how the pass computes.
        logits_bytes: Most memory that logits and their gradients take at a time.
        budget: The setting that decides the size of ``rows``.
        on_gpu: Whether PyTorch's caching allocator holds them.
    """
    in_flight = of_layers.in_flight
    if policy.gradient_checkpointing:
        # The inputs of all layers, and what one layer keeps while it is recomputed.
        kept: float = (shape.num_layers + 1) * shape.served.hidden_size * dtype_bytes(policy)
        in_flight += of_layers.largest
    else:
        kept = of_layers.together
    activations = rows.num_tokens * kept
    yield Part(
        name="activations",
        num_bytes=activations,
        settings=f"{budget}, policy.gradient_checkpointing, policy.autocast",
    )
    working = max(rows.num_tokens * in_flight, logits_bytes)
    yield Part(name="working memory of a layer or the logits", num_bytes=working, settings=budget)
    if on_gpu:
        yield Part(name="fragmentation", num_bytes=_FRAGMENTATION * (activations + working))


def process_part(*, on_gpu: bool) -> Part:
    """What a process that trains takes in addition to its tensors."""
    if on_gpu:
        return Part(name="CUDA context", num_bytes=_CUDA_CONTEXT)
    return Part(name="process", num_bytes=_TRAINER_PROCESS)


def planned_policy(policy: PolicyConfig, *, on_gpu: bool) -> PolicyConfig:
    """The policy with a dtype for `auto`: bfloat16 on a GPU, as models come and are served in 16 bits; else float32."""
    return with_dtype(policy, "bfloat16" if on_gpu else "float32")
