"""Plans how much of one card's memory server and trainer need, in bytes, before either starts."""

from collections import Counter
from dataclasses import dataclass

from inference_server.wire.hardware import gpu
from inference_server.wire.hardware.cpu import CPU_MAX_NUM_SEQS, cpu_kv_cache_bytes
from inference_server.wire.settings.serve import VLLM_GPU_MEMORY_UTILIZATION
from trainer.config.sections import DoctorConfig, OfflineRunConfig, TrainConfig
from trainer.doctor.device import Card
from trainer.doctor.layer_memory import BFLOAT16, FLOAT32
from trainer.doctor.memory_parts import (
    Part,
    Rows,
    server_parts,
    trainer_parts,
)
from trainer.doctor.model_shape import ModelShape
from trainer.model.device import MARGIN

PROMPT_TOKENS = 256
"""Planned length of an arm's prompt with a question of GSM8K; nearly all are shorter."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The services' parts on one card, or in one machine's memory."""

    server: tuple[Part, ...]
    """The server's parts without the key-value cache; empty if the server is on another machine."""
    trainer: tuple[Part, ...]
    """The trainer's parts; empty if the trainer is on another machine."""
    card_bytes: float
    server_share_bytes: float
    """What the server may allocate; on a CPU, what it does allocate."""
    kv_bytes_per_token: int
    kv_tokens_needed: int
    """Tokens that the key-value cache must hold: those of all arms of one question at their longest, or those of the
    longest sequence, as vLLM requires, whichever are more; 0 without a server."""
    on_gpu: bool

    @property
    def server_bytes(self) -> float:
        """The server's parts without the key-value cache."""
        return sum(part.num_bytes for part in self.server)

    @property
    def trainer_bytes(self) -> float:
        """The trainer's parts at its peak."""
        return sum(part.num_bytes for part in self.trainer)

    @property
    def kv_cache_bytes(self) -> float:
        """What is left of the server's share; negative if its other parts exceed the share."""
        return self.server_share_bytes - self.server_bytes

    @property
    def kv_tokens(self) -> int:
        """How many tokens the cache holds."""
        return max(0, round(self.kv_cache_bytes / self.kv_bytes_per_token))

    @property
    def margin_bytes(self) -> float:
        """What the trainer keeps free on a GPU (`trainer.model.device.limit_gpu_memory`)."""
        return MARGIN * self.card_bytes if self.on_gpu and self.trainer else 0.0

    @property
    def trainer_share_bytes(self) -> float:
        """What the server and the margin leave for the trainer."""
        return self.card_bytes - self.server_share_bytes - self.margin_bytes

    @property
    def total_bytes(self) -> float:
        """The server's share, the trainer's parts and the margin."""
        return self.server_share_bytes + self.trainer_bytes + self.margin_bytes

    @property
    def server_fits(self) -> bool:
        """Whether the cache holds all arms of one question, and the longest sequence."""
        return self.kv_tokens >= self.kv_tokens_needed

    @property
    def trainer_fits(self) -> bool:
        """Whether the trainer's peak stays within what the server leaves."""
        return self.trainer_bytes <= self.trainer_share_bytes

    @property
    def fits(self) -> bool:
        """Whether both services fit."""
        return self.server_fits and self.trainer_fits


def plan_memory(
    shape: ModelShape, config: DoctorConfig, card: Card, *, rows: Rows | None = None
) -> MemoryPlan:
    """Plan the memory of the services that run on this machine.

    Args:
        shape: The base model's.
        config: The run's and the server's settings; its ``role`` says which of the services run here.
        card: The memory that they have.
        rows: The largest micro-batch; None assumes the longest prompts and completions.
    """
    serve, on_gpu = config.serve, card.on_gpu
    server: tuple[Part, ...] = ()
    trainer: tuple[Part, ...] = ()
    if config.role != "trainer":
        server = tuple(server_parts(shape, serve, on_gpu=on_gpu))
    if config.role != "server":
        trainer = tuple(
            trainer_parts(shape, config.policy, rows or _longest_rows(shape, config), on_gpu=on_gpu)
        )
    longest = PROMPT_TOKENS + config.rollout.max_tokens
    share, needed = 0.0, 0
    if server:
        whole = 0
        if on_gpu:
            whole = shape.sliding_layers.cached_tokens(
                serve.max_model_len or shape.max_position_tokens,
                max_num_batched_tokens=gpu.MAX_BATCHED_TOKENS,
            )
        needed = max(whole, len(config.rollout.arms) * min(serve.max_model_len or longest, longest))
    per_token = shape.attention_layers.kv_bytes_per_token(
        bytes_per_number=BFLOAT16 if on_gpu else FLOAT32
    )
    if server and on_gpu:
        share = (serve.gpu_memory_utilization or VLLM_GPU_MEMORY_UTILIZATION) * card.memory_bytes
    elif server:
        share = sum(part.num_bytes for part in server) + cpu_kv_cache_bytes(
            bytes_per_token=per_token,
            max_model_len=serve.max_model_len or shape.max_position_tokens,
            memory_bytes=card.memory_bytes,
            max_num_seqs=serve.max_num_seqs or CPU_MAX_NUM_SEQS,
        )
    return MemoryPlan(
        server=server,
        trainer=trainer,
        card_bytes=card.memory_bytes,
        server_share_bytes=share,
        kv_bytes_per_token=per_token,
        kv_tokens_needed=needed,
        on_gpu=on_gpu,
    )


def planned_trainer_bytes(shape: ModelShape, config: TrainConfig | OfflineRunConfig) -> float:
    """The trainer's peak on a GPU."""
    parts = trainer_parts(shape, config.policy, _longest_rows(shape, config), on_gpu=True)
    return sum(part.num_bytes for part in parts)


def _longest_rows(shape: ModelShape, config: TrainConfig | OfflineRunConfig) -> Rows:
    """A micro-batch of the longest trees: all of a mini-batch, or as many as the budget allows.

    A tree is one prompt with the completions of all arms that share it, or with one completion.
    """
    prompts = Counter(arm.system_prompt for arm in config.rollout.arms)
    num_samples = config.rollout.samples_per_arm
    num_completions = 1 if shape.needs_own_rows else max(prompts.values()) * num_samples
    num_trees = config.ppo.questions_per_mini_batch * (
        prompts.total() * num_samples if shape.needs_own_rows else len(prompts)
    )
    budget = config.ppo.token_budget
    width = min(budget, PROMPT_TOKENS + num_completions * config.rollout.max_tokens)
    return Rows(num_tokens=min(budget, num_trees * width), width=width)
