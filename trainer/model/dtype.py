"""The dtype that the trainer computes the base in, and what it costs if the server uses another one."""

from collections.abc import Callable

import torch
from transformers import AutoConfig

from trainer.config.sections import PolicyConfig
from trainer.model.base_files import reading_base

_AUTO = "auto"
_KNOWN = ("float32", "bfloat16", "float16")


def with_dtype(policy: PolicyConfig, dtype: str) -> PolicyConfig:
    """The policy with a dtype, by its name in torch, in place of `auto`."""
    return policy.model_copy(update={"dtype": dtype}) if policy.dtype == _AUTO else policy


def with_default_dtype(
    policy: PolicyConfig, device: torch.device, say: Callable[[str], None]
) -> PolicyConfig:
    """The policy with `default_dtype` in place of `auto`, which ``say`` then gets a line about."""
    if policy.dtype != _AUTO:
        return policy
    dtype = default_dtype(policy.base_model, device)
    why = "no GPU" if device.type == "cpu" else "the base model's own"
    say(f"computing in {dtype} ({why}); policy.dtype sets another")
    return with_dtype(policy, dtype)


def default_dtype(base_model: str, device: torch.device) -> str:
    """What `auto` stands for if no server determines it.

    It is the base's own dtype on a GPU, and float32 on a CPU, where other dtypes are slower.
    """
    return "float32" if device.type == "cpu" else own_dtype(base_model)


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
    name = default_dtype(policy.base_model, device) if policy.dtype == _AUTO else policy.dtype
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def own_dtype(base_model: str) -> str:
    """The dtype that a base's configuration names; float32 if it names none that the server can use."""
    with reading_base(base_model):
        own = str(AutoConfig.from_pretrained(base_model).dtype).removeprefix("torch.")
    return own if own in _KNOWN else "float32"
