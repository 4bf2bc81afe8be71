"""A PPO step on tensors without data: their devices, dtypes, sizes, and how many bytes of them are alive.

The tensors are on PyTorch's device `meta`, on which a build without CUDA can differentiate (it cannot on fake CUDA
tensors). They count as a GPU's, so that the trainer takes the same paths as on a GPU.
"""

import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig

from trainer.config.sections import PolicyConfig, PPOConfig
from trainer.model.batches.batch import MicroBatch
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles
from trainer.ppo.update import PPOUpdate

DEVICE = torch.device("meta")
_ATEN = torch.ops.aten
_COPIES = (_ATEN.copy_.default, _ATEN._to_copy.default)


class Trace(TorchDispatchMode):
    """Sums the storages that are alive, and refuses operations on tensors of two devices.

    Reads of data get an answer: a number is 1, a truth value is false, and a tensor that is read as a whole is zeros. A
    mask selects everything, which is the most that it can select.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self.made: set[tuple[tuple[int, ...], torch.dtype]] = set()
        """Shape and dtype of every tensor that was made."""
        self.num_waits = 0
        """How often the host read a number from the device; selections by masks, which wait too, are not counted."""
        self._seen: set[int] = set()

    def hold(self, tensor: Tensor) -> None:
        """Counts a tensor's storage as alive until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if tensor.device != DEVICE or key in self._seen:
            return
        self._seen.add(key)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live_bytes -= size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        on_device = any(t.device == DEVICE for t in given)
        if func is _ATEN._local_scalar_dense.default and on_device:
            self.num_waits += 1
            return _answer(args[0].dtype)
        mixed = len({t.device for t in given if t.dim()}) > 1
        assert not mixed or func in _COPIES, f"{func} on two devices"
        if func is _ATEN._to_copy.default and on_device and kwargs.get("device") == CPU:
            self.num_waits += 1
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is _ATEN.index.Tensor and on_device and _is_mask(args[1]):
            (mask,) = args[1]
            out = args[0].new_empty((mask.numel(), *args[0].shape[mask.dim() :]))
        else:
            out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.device == DEVICE:
                self.hold(tensor)
                self.made.add((tuple(tensor.shape), tensor.dtype))
        return out


CPU = torch.device("cpu")


def _answer(dtype: torch.dtype) -> float:
    if dtype == torch.bool:
        return False
    return 1.0 if dtype.is_floating_point else 1


def _is_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(index is not None and index.dtype == torch.bool for index in indices)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **settings: Any
) -> Tensor:
    """Attention as PyTorch computes it on a GPU: with a kernel that takes the mask as numbers and keeps no scores."""
    bias = attn_mask
    if bias is not None:
        if bias.dtype == torch.bool:
            bias = torch.zeros(bias.shape, dtype=query.dtype, device=query.device)
        bias = bias.expand(*query.shape[:3], key.shape[2])
    out: Tensor = _ATEN._scaled_dot_product_efficient_attention(
        query, key, value, bias, torch.is_grad_enabled(), scale=settings.get("scale")
    )[0]
    return out


def _rotate_heads(
    heads: Tensor, values: Tensor, cos: Tensor, sin: Tensor, num_q: int
) -> tuple[Tensor, ...]:
    size = (*values.shape[:2], num_q, values.shape[-1])
    return tuple(values.new_empty(size).transpose(1, 2) for _ in range(3))


def _rotate_heads_gradient(of_q: Tensor, *others: Any) -> Tensor:
    num_rows, num_q, width, head_dim = of_q.shape
    return of_q.new_empty((num_rows, width, num_q + 2 * others[-1], head_dim))


def _logprobs_and_entropy(logits: Tensor, *_: object) -> tuple[Tensor, ...]:
    return tuple(logits.new_empty(len(logits)) for _ in range(3))


_TRITON_MODULES = {
    "elementwise": SimpleNamespace(
        norm=lambda x, *_: x.new_empty(len(x), dtype=torch.float32),
        norm_gradient=lambda x, *_: torch.empty_like(x),
        swiglu=lambda *_: None,
        swiglu_gradient=lambda both, _: torch.empty_like(both),
    ),
    "heads": SimpleNamespace(
        rotate_heads=_rotate_heads, rotate_heads_gradient=_rotate_heads_gradient
    ),
    "softmax": SimpleNamespace(
        logprobs_and_entropy=_logprobs_and_entropy,
        logprobs_gradient=lambda logits, *others: torch.empty_like(logits, dtype=others[-1]),
    ),
}
"""Stand-ins for the kernels, which only allocate what the kernels allocate."""


def _float32_product(states: Tensor, weight: Tensor) -> Tensor:
    """The product that `trainer.model.head` computes on a GPU; PyTorch does not have it on `meta`."""
    assert states.dtype == weight.dtype
    return states.new_empty((len(states), len(weight)), dtype=torch.float32)


@contextmanager
def as_on_a_gpu(config: PretrainedConfig) -> Iterator[None]:
    """A block in which bases of this shape are loaded without data, and `meta` counts as a GPU."""

    def load_base(policy: PolicyConfig, device: torch.device) -> Any:
        with device:
            base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        return base.requires_grad_(False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.model.roles.load_base", load_base)
        patch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: tensor.device == DEVICE))
        patch.setattr("torch.autocast", lambda *_, **__: nullcontext())
        for module in ("torch.nn.functional", "trainer.model.decoder.row_attention"):
            patch.setattr(f"{module}.scaled_dot_product_attention", _attention)
        for module in ("decoder.fused", "decoder.norm", "logprobs"):
            patch.setattr(f"trainer.model.{module}.triton_module", _TRITON_MODULES.__getitem__)
        # From sys.modules, since torch.optim deletes its attribute for this module.
        optimizer = sys.modules[torch.optim.Optimizer.__module__]
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: ["meta"])
        for module in ("head", "logprobs"):
            patch.setattr(f"trainer.model.{module}.float32_product", _float32_product)
        # Every number that is read is 1 here, also the count of values that are not finite.
        patch.setattr("trainer.ppo.scoring.require_finite", lambda *_: None)
        # Every truth value is false: without this the policy's update would be skipped for lack of advantages.
        patch.setattr("trainer.ppo.loss_weights.has_signal", lambda *_: True)
        yield


@dataclass(kw_only=True)
class TracedStep:
    """The tensors that a step made, and the memory that it held."""

    batches: list[MicroBatch]
    made: set[tuple[tuple[int, ...], torch.dtype]]
    weights: set[tuple[int, ...]]
    """Shapes of the frozen base's matrices."""
    num_waits: int
    """How often the update waited for the device; see `Trace`."""
    peak_bytes: int
    """The most bytes that were alive at once, including the moments that the optimizers have from an earlier step."""


def _make_moments(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def traced_step(
    config: PretrainedConfig, policy: PolicyConfig, ppo: PPOConfig, groups: list[list[Sample]]
) -> TracedStep:
    """Experience, losses and optimizers of a step on tensors without data."""
    with as_on_a_gpu(config), Trace() as trace:
        with DEVICE:  # PEFT moves no adapters to `meta`.
            roles = PolicyRoles(policy, device=DEVICE, serve_dtype=torch.bfloat16)
        for tensor in (*roles.parameters(), *roles.buffers()):
            trace.hold(tensor)
        weights = {tuple(p.shape) for n, p in roles.named_parameters() if "lora_" not in n}
        update = PPOUpdate(roles, ppo)
        for optimizer in (update.policy_optimizer, update.critic_optimizer):
            _make_moments(optimizer)
        trace.made.clear()
        trace.peak_bytes = trace.live_bytes
        mini_batches = update.experience(groups, seed="0")
        trace.num_waits = 0
        update.step(mini_batches, train_policy=True)
        return TracedStep(
            batches=[e.batch for m in mini_batches for e in m],
            made=trace.made,
            weights={shape for shape in weights if len(shape) == 2 and 1 not in shape},
            num_waits=trace.num_waits,
            peak_bytes=trace.peak_bytes,
        )
