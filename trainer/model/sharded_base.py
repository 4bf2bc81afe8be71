"""A frozen base whose layers are divided among the ranks of a job, by FSDP2 (`policy.shard_base`).

A pass through a layer gathers the layer's weights from all ranks for as long as the pass takes. So every rank has to
do the same passes in the same order; a rank that has nothing to compute does a pass of one token instead. Embeddings
and head stay whole on each rank, and so do adapters.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from huggingface_hub import snapshot_download
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM

from inference_server.wire.base_files import base_folder
from trainer.errors import UsageError
from trainer.model.base_files import reading_base


def is_divided() -> bool:
    """Whether there are other ranks to divide a base with."""
    return dist.is_initialized() and dist.get_world_size() > 1


def load_sharded(base_model: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The base model with this rank's part of every layer; each rank reads its own part of the files.

    Args:
        base_model: A folder or a Hub id, with weights in safetensors files.
        dtype: The dtype to compute in.
        device: Where the parts live.

    Raises:
        UsageError: The files cannot be read, or do not name their tensors as the model's modules are named.
    """
    with reading_base(base_model):
        folder = base_folder(base_model) or Path(snapshot_download(base_model))
        config = AutoConfig.from_pretrained(base_model)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    decoder = model.model
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    whole = {p for name, p in decoder.named_parameters() if not name.startswith("layers.")}
    fully_shard(decoder, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    model.to_empty(device=device)
    tensors = dict(model.state_dict())
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    with reading_base(base_model):
        reader = HuggingFaceStorageReader(str(folder))
        if missing := sorted(set(tensors) - set(reader.read_metadata().state_dict_metadata)):
            raise UsageError(
                f"policy.shard_base: the files of {base_model} have no tensor called {missing[0]}, so they cannot "
                "be read in parts; leave policy.shard_base out"
            )
        try:
            state_dict_loader.load(tensors, storage_reader=reader)
        except CheckpointException as error:
            # It is not an `Exception`; it holds the failure of each rank.
            reason, _ = next(iter(error.failures.values()))
            raise ValueError(str(reason)) from error
    model.tie_weights()
    # The angles of the rotary embedding are in no file; they are computed from the configuration.
    with torch.device(device):
        decoder.rotary_emb = type(decoder.rotary_emb)(config=config)
    others = {name for name, _ in model.named_buffers() if ".rotary_emb." not in name}
    if left := sorted(others - set(tensors)):
        raise UsageError(
            f"policy.shard_base: {base_model} has buffers that are in no file, such as {left[0]}; leave "
            "policy.shard_base out"
        )
    return model


class SharedPasses:
    """The passes through a base from `load_sharded`, in each of which all ranks take part."""

    def __init__(self, decoder: Any, device: torch.device):
        """The decoder may get adapters later; ``device`` is where it lives."""
        self._decoder, self._device = decoder, device
        self.announce: Callable[[bool], None] = lambda with_gradient: None
        """Called before each pass; the argument says whether a backward pass follows."""
        self.guard: Callable[[], AbstractContextManager[None]] = nullcontext
        """Makes the context of each pass, which has to notice a rank that leaves the pass early."""

    def require_adapter(self) -> None:
        """Refuse adapters that leave the first layer out: not all ranks' backward passes would reach that layer.

        Raises:
            UsageError: The first layer has no adapter.
        """
        if not any("lora_" in name for name, _ in self._decoder.layers[0].named_parameters()):
            raise UsageError(
                "policy.shard_base needs an adapter on the first layer: see policy.target_modules, or the "
                "layers of policy.adapter"
            )

    def of_one_token(self, *, with_gradient: bool) -> None:
        """Do a pass for the sake of ranks that have something to compute; leaves no gradient in any parameter.

        Args:
            with_gradient: Whether the other ranks' pass is followed by a backward pass.
        """
        position = torch.zeros(1, 1, dtype=torch.long, device=self._device)
        embedding = self._decoder.get_input_embeddings()(position).detach()
        embedding.requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            hidden: Tensor = self._decoder(
                inputs_embeds=embedding,
                position_ids=position,
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self._device),
                use_cache=False,
            )[0]
        if with_gradient:
            hidden.sum().backward(inputs=[embedding])


@contextmanager
def announced_pass(passes: SharedPasses | None) -> Iterator[None]:
    """A block around a forward pass; if all ranks take part in the pass, they are told of it."""
    with pass_guard(passes):
        if passes is not None:
            passes.announce(torch.is_grad_enabled())
        yield


def pass_guard(passes: SharedPasses | None) -> AbstractContextManager[None]:
    """A block around a forward pass and its backward pass that are not part of a step."""
    return nullcontext() if passes is None else passes.guard()


def shared_passes(decoder: Any, device: torch.device, *, shard_base: bool) -> SharedPasses | None:
    """The shared passes of a base that was loaded; None if each rank, or the only one, has the whole base."""
    return SharedPasses(decoder, device) if shard_base and is_divided() else None
