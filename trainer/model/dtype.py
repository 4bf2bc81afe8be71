"""The dtype that the trainer computes the base in, and what it costs if the server uses another one."""

from collections.abc import Callable

import torch
from transformers import AutoConfig

from trainer.config.sections import PolicyConfig
from trainer.model.base_files import reading_base

_AUTO = "auto"
_KNOWN = ("float32", "bfloat16", "float16")


def with_own_dtype(policy: PolicyConfig, device: torch.device) -> PolicyConfig:
    """The policy with a dtype in place of `auto`, for when no server determines the dtype.

    It is the base's own dtype on a GPU, and float32 on a CPU, where other dtypes are slower.
    """
    if policy.dtype != _AUTO:
        return policy
    dtype = "float32" if device.type == "cpu" else own_dtype(policy.base_model)
    return policy.model_copy(update={"dtype": dtype})


def with_server_dtype(policy: PolicyConfig, served: str) -> PolicyConfig:
    """The policy with the server's dtype in place of `auto`; ``served`` is its name in torch."""
    if policy.dtype != _AUTO:
        return policy
    return policy.model_copy(update={"dtype": served})


def with_recorded_dtype(
    policy: PolicyConfig, device: torch.device, kept: str | None, say: Callable[[str], None]
) -> PolicyConfig:
    """As `with_own_dtype`, but with the dtype kept by an earlier start, if any; otherwise ``say`` gets a line."""
    if policy.dtype != _AUTO:
        return policy
    if kept not in (None, _AUTO):
        return policy.model_copy(update={"dtype": kept})
    found = with_own_dtype(policy, device)
    why = "no GPU" if device.type == "cpu" else "the base model's own"
    say(f"computing in {found.dtype} ({why}); policy.dtype sets another")
    return found


def difference_line(policy: PolicyConfig, served: str) -> str | None:
    """A line on how the dtypes of trainer and server differ, and what that costs; None if they do not differ."""
    if policy.dtype in (_AUTO, served):
        return None
    return (
        f"warning: the server computes in {served} and the trainer in {policy.dtype} (policy.dtype). "
        "Rounding makes their logprobs differ by about 0.01 nats a token: importance weights make up for "
        "it, but the weight-sync check sees less. To avoid this, start a new run without policy.dtype, which takes "
        f"the server's, or start the server with --dtype {policy.dtype}"
    )


def collected_line(policy: PolicyConfig, collected: str) -> str | None:
    """As `difference_line`, for rollouts that were collected earlier.

    Args:
        policy: Its dtype is settled.
        collected: The dtype that the server computed in when it sampled them.
    """
    if policy.dtype == collected:
        return None
    return (
        f"warning: the rollouts were collected from a server that computed in {collected}, and the trainer "
        f"computes in {policy.dtype}. Rounding makes their logprobs differ by about 0.01 nats a token, which "
        f"importance weights make up for; policy.dtype = {collected} leaves no difference"
    )


def torch_dtype(policy: PolicyConfig, device: torch.device) -> torch.dtype:
    """The dtype that the base is loaded in."""
    dtype: torch.dtype = getattr(torch, with_own_dtype(policy, device).dtype)
    return dtype


def own_dtype(base_model: str) -> str:
    """The dtype that a base's configuration names; float32 if it names none that the server can use."""
    with reading_base(base_model):
        own = str(AutoConfig.from_pretrained(base_model).dtype).removeprefix("torch.")
    return own if own in _KNOWN else "float32"
