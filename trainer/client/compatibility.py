"""Checks whether a server fits a run, before anything else is asked of it."""

from dataclasses import dataclass
from typing import Protocol

from inference_server.wire.base_files import known_fingerprint
from inference_server.wire.schemas import ServerStatus
from trainer.config.sections import PolicyConfig, TrainConfig
from trainer.errors import UsageError
from trainer.model.adapter_files import shaped_as_adapter


class HeldLimits(Protocol):
    """Limits that a server reports, and that the section ``serve`` sets for it."""

    @property
    def max_samples_per_arm(self) -> int:
        """Most samples of each arm in one request."""

    @property
    def max_lora_rank(self) -> int:
        """Largest rank of an adapter."""

    @property
    def max_loaded_versions(self) -> int:
        """Most adapter versions that are held."""


def check_server(status: ServerStatus, config: TrainConfig) -> None:
    """Refuse a server whose limits a later step would exceed.

    Raises:
        UsageError: A limit is too low; the message names the setting and the server's flag.
    """
    limits = status.limits
    if config.rollout.prompt_format == "chat" and not status.has_chat_template:
        raise UsageError(
            "rollout.prompt_format is chat, but the server's tokenizer has no chat template that can be "
            "used; serve the model with one, or set rollout.prompt_format to plain"
        )
    if config.rollout.max_tokens >= limits.max_model_len_tokens:
        raise UsageError(
            f"rollout.max_tokens is {config.rollout.max_tokens}, but the server's context is "
            f"{limits.max_model_len_tokens} tokens; lower it or raise the server's --max-model-len"
        )
    check_limits(limits, config)


def check_limits(limits: HeldLimits, config: TrainConfig) -> None:
    """Refuse limits that a later step would exceed, of a server that runs or of one that is yet to start.

    Raises:
        UsageError: A limit is too low; the message names the setting and the server's flag.
    """
    if config.rollout.samples_per_arm > limits.max_samples_per_arm:
        raise UsageError(
            f"rollout.samples_per_arm is {config.rollout.samples_per_arm}, but the server allows "
            f"{limits.max_samples_per_arm}"
        )
    rank = shaped_as_adapter(config.policy).lora_rank
    if rank > limits.max_lora_rank:
        adapter = config.policy.adapter
        what = f"policy.lora_rank is {rank}" if adapter is None else f"{adapter} has rank {rank}"
        fix = "lower it or " if adapter is None else ""
        raise UsageError(
            f"{what}, but the server holds adapters up to rank {limits.max_lora_rank}; {fix}raise the server's "
            "--max-lora-rank"
        )
    if config.rollout.max_staleness + 2 > limits.max_loaded_versions:
        raise UsageError(
            f"rollout.max_staleness {config.rollout.max_staleness} needs "
            f"{config.rollout.max_staleness + 2} versions on the server, which holds "
            f"{limits.max_loaded_versions}; raise its --max-loaded-versions"
        )


def check_base(status: ServerStatus, policy: PolicyConfig) -> None:
    """Refuse a server with another base model, if both sides have the model's files.

    Raises:
        UsageError: The models differ; the message names both, and the settings.
    """
    found = compare_base(status, policy)
    if found.is_same is False:
        raise UsageError(f"the server serves {found.text}: fix {found.advice}")


@dataclass(frozen=True, kw_only=True)
class BaseComparison:
    """What is known about the base model that a server serves."""

    is_same: bool | None
    """Whether its weights are the trainer's; None if the files cannot tell."""
    text: str
    """What is served, and what was compared."""
    advice: str = ""
    """The settings to change, if it is another model."""


def compare_base(status: ServerStatus, policy: PolicyConfig) -> BaseComparison:
    """Compare the base model's files on both sides."""
    ours, served = known_fingerprint(policy.base_model), status.base_fingerprint
    name = status.base_model
    if ours is None or served is None:
        return BaseComparison(
            is_same=None,
            text=f"{name}; whether it is the same revision of {policy.base_model} was not checked: the files "
            "are not on disk",
        )
    if policy.quantization is not None:
        if ours == served:
            return BaseComparison(
                is_same=False,
                text=f"{name}, but the trainer's 4-bit weights differ from these",
                advice="the server's --model: serve what `python -m trainer dequantize` writes",
            )
        return BaseComparison(
            is_same=None,
            text=f"{name}, and the trainer uses {policy.base_model} in 4 bits; the first push checks whether "
            "the weights are the same",
        )
    if ours != served:
        return BaseComparison(
            is_same=False,
            text=f"{name} with fingerprint {served}, but policy.base_model {policy.base_model} has {ours}: "
            "another model, or another revision of it",
            advice="policy.base_model, or the server's --model and --revision",
        )
    return BaseComparison(is_same=True, text=f"{name}, the same files")


def base_field(first: ServerStatus, second: ServerStatus) -> str:
    """The field that says whether two servers have the same base model.

    A path or a name can be written in several ways, and another model may lie there, so that the fingerprint of the
    files is compared if both servers have one.
    """
    has_both = first.base_fingerprint is not None and second.base_fingerprint is not None
    return "base_fingerprint" if has_both else "base_model"
