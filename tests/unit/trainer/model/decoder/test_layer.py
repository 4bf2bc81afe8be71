"""The decoder in few operations against Transformers' and PEFT's own forward pass."""

import random
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.rounding import in_float64
from tests.unit.dispatched import a_layer, by_kind, dispatched
from trainer.config.sections import PolicyConfig
from trainer.model.batches.batch import MicroBatch, micro_batches
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role

CPU = torch.device("cpu")
HIDDEN = 32
SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": HIDDEN,
    "intermediate_size": 80,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
KINDS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (partial(LlamaConfig, num_key_value_heads=4), LlamaForCausalLM),
    "mistral": (partial(MistralConfig, sliding_window=None), MistralForCausalLM),
}
ALL_LINEAR = ("all-linear",)


def base_of(folder: Path, kind: str = "qwen2", num_layers: int = 2) -> Path:
    """A random model's folder."""
    config, model = KINDS[kind]
    path = folder / f"{kind}-{num_layers}"
    if not path.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = model(config(**{**SHAPE, **_own(config)}, num_hidden_layers=num_layers))
            for name, parameter in made.named_parameters():
                if "norm" in name or "bias" in name:
                    parameter.data.add_(0.3 * torch.randn_like(parameter))
            made.save_pretrained(path)
    return path


def _own(config: Callable[..., Any]) -> dict[str, Any]:
    return dict(config.keywords) if isinstance(config, partial) else {}


def roles_of(base: Path, *, plain: bool = False, **settings: Any) -> PolicyRoles:
    """Roles whose policy is a random adapter.

    Args:
        base: The base's folder.
        plain: Whether Transformers and PEFT compute, as they did everything earlier.
        settings: Settings of the table ``policy``.
    """
    config = PolicyConfig(
        base_model=str(base),
        lora_rank=4,
        lora_alpha=8,
        target_modules=ALL_LINEAR,
    ).model_copy(update=settings)
    with ExitStack() as stack:
        if plain:
            stack.enter_context(patch("trainer.model.roles.decoder_of", return_value=None))
        roles = PolicyRoles(config, device=CPU, serve_dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in roles.adapter_parameters(Role.POLICY):
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_(0.1 * noise)
    return roles


def packed() -> MicroBatch:
    """Prefix trees in rows: four completions of each of five prompts."""
    rng = random.Random(7)
    samples = [
        Sample(
            prompt_ids=(*range(question, question + 6), i % 2),
            completion_ids=tuple(rng.choices(range(60), k=3 + i)),
            sampler_logprobs=(-1.0,) * (3 + i),
            temperature=1.0,
            top_p=1.0,
            reward=0.0,
            truncated=False,
            version=0,
        )
        for question in range(5)
        for i in range(4)
    ]
    (batch,) = micro_batches(samples, token_budget=10**6, hidden_size=HIDDEN, device=CPU)
    return batch


def passes(roles: PolicyRoles, batch: MicroBatch) -> Tensor:
    """A forward and a backward pass of the policy; [B, C] its logprobs."""
    logprobs = roles.token_logprobs(Role.POLICY, batch).logprobs
    (logprobs * torch.linspace(-1, 1, logprobs.shape[1])).sum().backward()
    return logprobs.detach()


def operations_of_a_layer(folder: Path, **settings: Any) -> dict[str, int]:
    """Operations that one layer adds to `passes`, by kind."""
    counts = []
    for num_layers in (2, 3):
        roles = roles_of(base_of(folder, num_layers=num_layers), **settings)
        counts.append(dispatched(partial(passes, roles, packed())))
    return by_kind(a_layer(*counts))


@pytest.fixture(params=[False, True], ids=["as on a CPU", "widened"])
def widened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the base's products include the adapters', as on a GPU."""
    monkeypatch.setattr("trainer.model.decoder.layer._is_widened", lambda _: request.param)
    return bool(request.param)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_layer_takes_two_fifths_of_the_operations(
    dtype: str, checkpointing: bool, widened: bool, tmp_path: Path
) -> None:
    count = partial(
        operations_of_a_layer, tmp_path, dtype=dtype, gradient_checkpointing=checkpointing
    )
    before, now = count(plain=True), count()
    if dtype == "bfloat16" and checkpointing:
        assert (before["all"], before["kernels"]) == (696, 287)
    assert now["all"] <= 0.4 * before["all"]
    # A float32 model had no casts to lose.
    bound = 0.55 if dtype == "float32" else 0.33 if widened else 0.4
    assert now["kernels"] <= bound * before["kernels"]


def gradients(base: Path, **settings: Any) -> tuple[Tensor, Tensor]:
    """The policy's logprobs, and all its gradients in one vector."""
    roles = roles_of(base, **settings)
    logprobs = passes(roles, packed())
    found = [p.grad for p in roles.adapter_parameters(Role.POLICY)]
    return logprobs, torch.cat([grad.flatten() for grad in found if grad is not None])


def exact(base: Path) -> tuple[Tensor, Tensor]:
    """`gradients` by Transformers and PEFT in float64, including the norms, which they compute in float32."""

    def norm(self: Any, x: Tensor) -> Tensor:
        mean = x.square().mean(dim=-1, keepdim=True)
        normed: Tensor = self.weight * (x * torch.rsqrt(mean + self.variance_epsilon))
        return normed

    with in_float64(), ExitStack() as stack:
        for kind in KINDS:
            name = f"transformers.models.{kind}.modeling_{kind}.{kind.capitalize()}RMSNorm.forward"
            stack.enter_context(patch(name, norm))
        return gradients(base, plain=True, dtype="float64", gradient_checkpointing=False)


def distance(found: Tensor, wanted: Tensor) -> float:
    """The distance relative to the size of ``wanted``."""
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_exact_up_to_rounding(kind: str, widened: bool, tmp_path: Path) -> None:
    base = base_of(tmp_path, kind)
    wanted = exact(base)
    for dtype in ("float32", "bfloat16"):
        for checkpointing in (True, False):
            settings: dict[str, Any] = {"dtype": dtype, "gradient_checkpointing": checkpointing}
            ours, plain = gradients(base, **settings), gradients(base, plain=True, **settings)
            for found, other, exactly in zip(ours, plain, wanted, strict=True):
                # Rounding is luck: over five adapters the ratio was between 0.6 and 1.8.
                bound = 5e-6 if dtype == "float32" else 2.5 * distance(other, exactly)
                assert distance(found, exactly) <= bound


def test_a_pass_of_another_role_between_leaves_the_gradients(widened: bool, tmp_path: Path) -> None:
    # Both write their B beside the same weights.
    def found(*, between: bool) -> Tensor:
        roles = roles_of(base_of(tmp_path), dtype="float32", gradient_checkpointing=False)
        logprobs = roles.token_logprobs(Role.POLICY, packed()).logprobs
        if between:
            roles.token_logprobs(Role.CRITIC, packed())
        logprobs.sum().backward()
        grads = [p.grad for p in roles.adapter_parameters(Role.POLICY)]
        return torch.cat([grad.flatten() for grad in grads if grad is not None])

    assert torch.equal(found(between=True), found(between=False))


@pytest.mark.skipif(
    find_spec("triton") is None or torch.cuda.is_available(),
    reason="Triton's interpreter, for which tensors of a CPU are passed off as a GPU's",
)
@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_a_gpus_kernels_together_give_the_same_gradients(
    kind: str, checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = base_of(tmp_path, kind)
    wanted = exact(base)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda _: True))
    found = gradients(base, dtype="float32", gradient_checkpointing=checkpointing)
    for ours, exactly in zip(found, wanted, strict=True):
        assert distance(ours, exactly) <= 5e-6
