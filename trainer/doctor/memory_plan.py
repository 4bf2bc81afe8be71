"""What server and trainer need of one card's memory, part by part, before either is started.

Weights and adapters are counted on the model itself, laid out without memory. What a backward pass
keeps is a formula of the layers' shape, written down from what PyTorch keeps of Qwen2 and Llama
layers with adapters on every linear one; tests hold it against the allocator. Sizes are in bytes.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from trainer.config.sections import Section, TrainConfig
from trainer.model.token_logprobs import CHUNK_LOGITS

GIB = 2**30
_FLOAT32 = 4
_BFLOAT16 = 2

# Four bits a weight, and the scales: 8 bits for each 64 weights, 32 for each 256 of those.
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
_NUM_ROLES = 4
_NUM_TRAINED_ROLES = 2
# An arm's prompt with a question of GSM8K, longer than nearly all.
_PROMPT_TOKENS = 256

# What is left of the resident memory of the demo's processes without the parts that are counted here;
# benchmarks/README.md has the figures. The server's is two processes, pages of files counted once.
_TRAINER_PROCESS = 0.62 * GIB
_SERVER_PROCESS = 1.45 * GIB
_CPU_KV_CACHE = 1 * GIB
"""``VLLM_CPU_KVCACHE_SPACE`` in `inference_server.vllm.cpu_settings`."""
# Not measured here, for want of a GPU: a CUDA context with cuBLAS's workspaces; vLLM's CUDA graphs.
_CUDA_CONTEXT = 0.6 * GIB
_CUDA_GRAPHS = 1.0 * GIB
_SERVER_BATCH_TOKENS = 8192
_SERVER_BATCH_SEQUENCES = 256
# Of what the trainer allocates, what its allocator holds and cannot use.
_FRAGMENTATION = 0.05


class ServeConfig(Section):
    """Flags of the server on which its memory depends."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.45
    """Its share of the card; the trainer has the rest."""
    max_model_len: Annotated[int, Field(ge=1)] = 4096
    """Longest prompt and completion together, in tokens."""
    max_lora_rank: Annotated[int, Field(ge=1)] = 16
    """Largest rank of an adapter."""
    max_loaded_versions: Annotated[int, Field(ge=2)] = 4
    """Adapter versions that it holds at a time; each has a slot."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """What a model's memory depends on."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    attention_size: int
    """Heads × their size: of the queries, and of the keys repeated for them."""
    kv_size: int
    """Of the keys of one token in one layer as they are cached."""
    vocab_size: int
    num_parameters: int
    num_linear_parameters: int
    """Of them, those in the layers' matrices, which QLoRA keeps in four bits."""
    largest_matrix: int
    adapter_parameters_per_rank: int
    """Of an adapter of rank 1 on the configured modules."""
    slot_parameters_per_rank: int
    """Of an adapter of rank 1 on all modules that vLLM keeps slots for."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Size of a micro-batch; see `trainer.model.batch`."""

    num_tokens: int
    """Rows × width."""
    width: int


@dataclass(frozen=True, kw_only=True)
class Part:
    """One line of the plan."""

    name: str
    num_bytes: float
    settings: str = ""
    """What decides it."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Both services' parts on one card, or in one machine's memory."""

    server: tuple[Part, ...]
    """Without the key-value cache."""
    trainer: tuple[Part, ...]
    card_bytes: float
    server_share_bytes: float
    """What the server may take of the card; on a CPU what it takes."""
    kv_bytes_per_token: int
    kv_tokens_needed: int
    """Of the arms of one question at their longest."""
    on_gpu: bool

    @property
    def server_bytes(self) -> float:
        """Without the key-value cache."""
        return sum(part.num_bytes for part in self.server)

    @property
    def trainer_bytes(self) -> float:
        """At its peak."""
        return sum(part.num_bytes for part in self.trainer)

    @property
    def kv_cache_bytes(self) -> float:
        """What is left of the server's share; negative where its other parts are more than that."""
        return self.server_share_bytes - self.server_bytes

    @property
    def kv_tokens(self) -> int:
        """How many tokens the cache holds."""
        return max(0, round(self.kv_cache_bytes / self.kv_bytes_per_token))

    @property
    def trainer_share_bytes(self) -> float:
        """What is left for the trainer."""
        return self.card_bytes - self.server_share_bytes

    @property
    def total_bytes(self) -> float:
        """Of both."""
        return self.server_share_bytes + self.trainer_bytes

    @property
    def server_fits(self) -> bool:
        """The arms of a question can be generated together."""
        return self.kv_tokens >= self.kv_tokens_needed

    @property
    def trainer_fits(self) -> bool:
        """The peak stays within what is left."""
        return self.trainer_bytes <= self.trainer_share_bytes

    @property
    def fits(self) -> bool:
        """Both do."""
        return self.server_fits and self.trainer_fits


def read_shape(base_model: str, target_modules: tuple[str, ...]) -> ModelShape:
    """Lay a model out without its weights; only its configuration is read.

    Raises:
        OSError: The configuration cannot be found.
        ValueError: Its architecture is unknown.
    """
    config = AutoConfig.from_pretrained(base_model)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    in_layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".layers." in name
    }
    targets = [m for name, m in in_layers.items() if name.rpartition(".")[2] in target_modules]
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelShape(
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        attention_size=heads * head_size,
        kv_size=config.num_key_value_heads * head_size,
        vocab_size=config.vocab_size,
        num_parameters=sum(p.numel() for p in model.parameters()),
        num_linear_parameters=sum(module.weight.numel() for module in in_layers.values()),
        largest_matrix=max(module.weight.numel() for module in in_layers.values()),
        adapter_parameters_per_rank=sum(m.in_features + m.out_features for m in targets),
        slot_parameters_per_rank=sum(m.in_features + m.out_features for m in in_layers.values()),
    )


def plan_memory(
    shape: ModelShape,
    config: TrainConfig,
    serve: ServeConfig,
    *,
    card_bytes: float,
    on_gpu: bool,
    rows: Rows | None = None,
) -> MemoryPlan:
    """Both services' parts.

    Args:
        shape: Of the base model.
        config: Of the run.
        serve: Of the server.
        card_bytes: Memory of the GPU, or of the machine.
        on_gpu: Whether both compute on a GPU.
        rows: The largest micro-batch; where None, one of the longest prompts and completions.
    """
    server = tuple(_server_parts(shape, serve, on_gpu=on_gpu))
    if on_gpu:
        share = serve.gpu_memory_utilization * card_bytes
    else:
        share = sum(part.num_bytes for part in server) + _CPU_KV_CACHE
    return MemoryPlan(
        server=server,
        trainer=tuple(_trainer_parts(shape, config, rows or _longest_rows(config), on_gpu=on_gpu)),
        card_bytes=card_bytes,
        server_share_bytes=share,
        kv_bytes_per_token=2
        * shape.num_layers
        * shape.kv_size
        * (_BFLOAT16 if on_gpu else _FLOAT32),
        kv_tokens_needed=_num_arms(config)
        * min(serve.max_model_len, _PROMPT_TOKENS + config.rollout.max_tokens),
        on_gpu=on_gpu,
    )


def _num_arms(config: TrainConfig) -> int:
    return len(config.rollout.resolved_arms)


def _longest_rows(config: TrainConfig) -> Rows:
    """Trees of one prompt's arms at their longest, as many as the mini-batch has and the budget allows."""
    prompts = Counter(arm.system_prompt for arm in config.rollout.resolved_arms)
    num_completions = max(prompts.values()) * config.rollout.samples_per_arm
    budget = config.ppo.token_budget
    width = min(budget, _PROMPT_TOKENS + num_completions * config.rollout.max_tokens)
    num_trees = config.ppo.questions_per_mini_batch * len(prompts)
    return Rows(num_tokens=min(budget, num_trees * width), width=width)


def _server_parts(shape: ModelShape, serve: ServeConfig, *, on_gpu: bool) -> Iterator[Part]:
    size = _BFLOAT16 if on_gpu else _FLOAT32
    slot = serve.max_lora_rank * (
        shape.slot_parameters_per_rank + shape.hidden_size + shape.vocab_size
    )
    yield Part(name="weights", num_bytes=shape.num_parameters * size, settings="the model")
    yield Part(
        name="LoRA slots",
        num_bytes=serve.max_loaded_versions * slot * size,
        settings="serve.max_loaded_versions, serve.max_lora_rank",
    )
    if not on_gpu:
        yield Part(name="process", num_bytes=_SERVER_PROCESS)
        return
    widest = 2 * shape.hidden_size + 3 * shape.intermediate_size
    yield Part(
        name="a batch's activations",
        num_bytes=_SERVER_BATCH_TOKENS * widest * size
        + 3 * _SERVER_BATCH_SEQUENCES * shape.vocab_size * _FLOAT32,
        settings="--max-num-batched-tokens, --max-num-seqs",
    )
    yield Part(name="CUDA graphs", num_bytes=_CUDA_GRAPHS, settings="--enforce-eager")
    yield Part(name="CUDA context", num_bytes=_CUDA_CONTEXT)


def _trainer_parts(
    shape: ModelShape, config: TrainConfig, rows: Rows, *, on_gpu: bool
) -> Iterator[Part]:
    policy = config.policy
    size = _FLOAT32 if policy.dtype == "float32" else _BFLOAT16
    in_four_bits = shape.num_linear_parameters if policy.quantization == "nf4" else 0
    yield Part(
        name="weights",
        num_bytes=in_four_bits * _NF4 + (shape.num_parameters - in_four_bits) * size,
        settings="policy.dtype, policy.quantization",
    )
    if in_four_bits:
        yield Part(name="a matrix in full", num_bytes=shape.largest_matrix * size)
    adapter = policy.lora_rank * shape.adapter_parameters_per_rank * _FLOAT32
    head = shape.hidden_size * _FLOAT32
    yield Part(
        name=f"{_NUM_ROLES} adapters",
        num_bytes=_NUM_ROLES * adapter + head,
        settings="policy.lora_rank, policy.target_modules",
    )
    trained = _NUM_TRAINED_ROLES * adapter + head
    yield Part(name="gradients", num_bytes=trained, settings="policy.lora_rank")
    yield Part(name="AdamW's moments", num_bytes=2 * trained, settings="policy.lora_rank")
    # Weights and moments as they were before the step; see PPOUpdate.
    yield Part(name="copies to undo a step", num_bytes=3 * trained, settings="policy.lora_rank")
    layer, in_flight = _layer_bytes(shape, config, rows.width)
    if policy.gradient_checkpointing:
        # The inputs of all layers, and what one of them keeps when it is computed again.
        kept: float = (shape.num_layers + 1) * shape.hidden_size * size
        in_flight += layer
    else:
        kept = shape.num_layers * layer
    activations = rows.num_tokens * kept
    yield Part(
        name="activations",
        num_bytes=activations,
        settings="ppo.token_budget, policy.gradient_checkpointing, policy.autocast",
    )
    logits = 2 * min(CHUNK_LOGITS, rows.num_tokens * shape.vocab_size) * _FLOAT32
    at_work = max(rows.num_tokens * in_flight, logits)
    yield Part(name="the layer or logits at work", num_bytes=at_work, settings="ppo.token_budget")
    if on_gpu:
        yield Part(name="fragmentation", num_bytes=_FRAGMENTATION * (activations + at_work))
        yield Part(name="CUDA context", num_bytes=_CUDA_CONTEXT)
    else:
        yield Part(name="process", num_bytes=_TRAINER_PROCESS)


def _layer_bytes(shape: ModelShape, config: TrainConfig, row_width: int) -> tuple[float, float]:
    """Of each token: what one layer keeps for its backward pass, and what that pass takes beside."""
    policy = config.policy
    size = _FLOAT32 if policy.dtype == "float32" else _BFLOAT16
    # Autocast computes products in bfloat16 whatever the weights are.
    product = _BFLOAT16 if policy.autocast else size
    hidden, inner, attention = shape.hidden_size, shape.intermediate_size, shape.attention_size
    if size == product == _FLOAT32:
        # Modules with the same input share it.
        adapter_inputs = (2 * hidden + inner) * _FLOAT32
    else:
        # PEFT casts it for each of them; autocast casts that again, and keeps the second.
        adapter_inputs = (5 * hidden + attention + inner) * (
            product if policy.autocast else _FLOAT32
        )
    layer = (
        2 * hidden * _FLOAT32  # both norms' inputs
        + adapter_inputs
        + 4 * attention * product  # queries, keys, values and what attention makes of them
        + 3 * inner * product  # gate, its SiLU, and up
        + 7 * policy.lora_rank * product
        + row_width * product  # the mask, once for each layer
    )
    return layer, 2 * inner * product
