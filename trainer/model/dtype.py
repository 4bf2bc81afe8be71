"""The dtype that the trainer computes the base in, and what it costs where the server's is another."""

from collections.abc import Callable

import torch
from transformers import AutoConfig

from trainer.config.sections import PolicyConfig
from trainer.model.base_files import reading_base

_AUTO = "auto"
_KNOWN = ("float32", "bfloat16", "float16")


def settled(policy: PolicyConfig, device: torch.device) -> PolicyConfig:
    """The policy with a dtype in place of `auto`, where no server says which.

    The base's own on a GPU; float32 on a CPU, where the others are slower.
    """
    if policy.dtype != _AUTO:
        return policy
    dtype = "float32" if device.type == "cpu" else own_dtype(policy.base_model)
    return policy.model_copy(update={"dtype": dtype})


def settled_by_server(policy: PolicyConfig, served: str) -> PolicyConfig:
    """The policy with the server's dtype in place of `auto`; ``served`` is its name in torch."""
    if policy.dtype != _AUTO:
        return policy
    return policy.model_copy(update={"dtype": served})


def settled_as_kept(
    policy: PolicyConfig, device: torch.device, kept: str | None, say: Callable[[str], None]
) -> PolicyConfig:
    """`settled`, but with the dtype that an earlier start has kept, if there is one; ``say`` gets a line."""
    if policy.dtype != _AUTO:
        return policy
    if kept not in (None, _AUTO):
        return policy.model_copy(update={"dtype": kept})
    found = settled(policy, device)
    why = "no GPU" if device.type == "cpu" else "the base model's own"
    say(f"computing in {found.dtype} ({why}); policy.dtype sets another")
    return found


def difference_line(policy: PolicyConfig, served: str) -> str | None:
    """What differs between trainer and server, and what it costs; None where nothing does."""
    if policy.dtype in (_AUTO, served):
        return None
    return (
        f"warning: the server computes in {served} and the trainer in {policy.dtype} (policy.dtype). "
        "Rounding makes their logprobs differ by about 0.01 nats a token: importance weights make up for "
        "it, but the proof of sync sees less. A new run without policy.dtype takes the server's; the "
        f"server's --dtype {policy.dtype} is the other way"
    )


def collected_line(policy: PolicyConfig, collected: str) -> str | None:
    """The same for rollouts that are trained on later; None where nothing differs.

    Args:
        policy: Its dtype is settled.
        collected: What the server that sampled them computed in.
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
    dtype: torch.dtype = getattr(torch, settled(policy, device).dtype)
    return dtype


def own_dtype(base_model: str) -> str:
    """The dtype of a base's files; float32 where its configuration names none that is served."""
    with reading_base(base_model):
        own = str(AutoConfig.from_pretrained(base_model).dtype).removeprefix("torch.")
    return own if own in _KNOWN else "float32"
