"""The roles of PPO on one frozen base: policy, proximal, reference and critic.

Each role is a LoRA adapter on the same base weights; the critic also has a value head. The proximal role holds a
published version's weights, rounded to the server's dtype: exactly the weights that generated the tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn

from trainer.config.sections import PolicyConfig
from trainer.model.adapter import (
    AdapterState,
    adapter_tensors,
    attach_adapter,
    flaw_in_state,
    fuse_additions,
    write_adapter,
)
from trainer.model.attention import Attention, attention_of
from trainer.model.base_model import load_base, recompute_activations
from trainer.model.batches.batch import MicroBatch, TokenRows, micro_batches
from trainer.model.batches.sample import Sample
from trainer.model.decoder.layer import decoder_of
from trainer.model.device import gathered, set_product_precision
from trainer.model.head import scalars
from trainer.model.logprobs import AS_ASKED, Sampling, distinct_logprobs
from trainer.model.nuclei import Nucleus
from trainer.model.sharded_base import announced_pass, shared_passes


class Role(StrEnum):
    """The adapters on the base."""

    POLICY = "policy"
    PROXIMAL = "proximal"
    REFERENCE = "reference"
    CRITIC = "critic"


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """Logprobs of the sampled completion tokens, [B, C], zero on padding."""

    logprobs: Tensor
    entropy: Tensor
    """In nats, of the distribution at each token's temperature and top-p; no gradient."""
    nuclei: tuple[Nucleus, ...]
    """The tokens that the distributions with top_p < 1 are normalised over."""


class PolicyRoles(nn.Module):
    """One frozen base with an adapter for each role and a value head for the critic."""

    def __init__(self, config: PolicyConfig, *, device: torch.device, serve_dtype: torch.dtype):
        """Load the base and start every role from the same adapter.

        Args:
            config: Base model, starting adapter (or the shape of a fresh one) and dtype.
            device: Where everything lives.
            serve_dtype: The dtype to which the server rounds adapters.

        Raises:
            UsageError: The base cannot be read or computes in a way that the trainer does not, or the
                starting adapter cannot be used; see `attention_of` and `attach_adapter`.
        """
        super().__init__()
        self.device, self.serve_dtype = device, serve_dtype
        base = load_base(config, device)
        self.shared_passes = shared_passes(base.model, device, shard_base=config.shard_base)
        """None unless the base is divided among ranks, which then all take part in every pass."""
        set_product_precision(device, base.dtype)
        self._attention = attention_of(base, config.base_model)
        self.hidden_size = int(base.config.hidden_size)
        self.vocab_size = int(base.get_input_embeddings().num_embeddings)
        self.model = attach_adapter(base, config, Role.POLICY)
        others = (Role.PROXIMAL, Role.REFERENCE, Role.CRITIC)
        for role in others:
            self.model.add_adapter(role, self.model.peft_config[Role.POLICY])
        # Looked up once: PEFT walks through every module, which takes longer than the copy.
        self._tensors: dict[Role, AdapterState] = {
            role: adapter_tensors(self.model, role) for role in Role
        }
        start = self.adapter_state(Role.POLICY)
        for role in others:
            self.load_adapter_state(role, start)
        self.value_head = nn.Linear(self.hidden_size, 1).to(device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._lora_layers = [m for m in self.model.modules() if isinstance(m, LoraLayer)]
        for layer in self._lora_layers:
            fuse_additions(layer)
        # Policy and critic both stay trainable, so that `activate` only has to set a name.
        self.model.set_requires_grad([Role.PROXIMAL, Role.REFERENCE], requires_grad=False)
        self.model.set_requires_grad([Role.POLICY, Role.CRITIC], requires_grad=True)
        self.model.eval()
        half = torch.float16 if config.dtype == "float16" else torch.bfloat16
        self._autocast = torch.autocast(device.type, half, enabled=config.autocast)
        if config.gradient_checkpointing:
            recompute_activations(base)
        # The decoder takes one mask, ignores autocast, and never calls the modules whose weights FSDP gathers. With
        # shard_base, a single rank goes without it too: it can then replay a sharded run to the bit.
        self._decoder = (
            None
            if config.autocast or config.shard_base or self._attention != Attention()
            else decoder_of(base.model, checkpointing=config.gradient_checkpointing)
        )

    def adapter_parameters(self, role: Role) -> list[nn.Parameter]:
        """The adapter's parameters, in a stable order."""
        return [p for name, p in self.model.named_parameters() if f".{role}." in name]

    def critic_parameters(self) -> list[nn.Parameter]:
        """The critic's adapter and value head."""
        return [*self.adapter_parameters(Role.CRITIC), *self.value_head.parameters()]

    def adapter_state(self, role: Role) -> AdapterState:
        """A copy of an adapter's tensors, float32 on the CPU."""
        tensors = self._tensors[role]
        return {name: tensor.detach().float().cpu().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def load_adapter_state(self, role: Role, state: AdapterState) -> None:
        """Overwrite an adapter's tensors.

        Raises:
            RuntimeError: A tensor is missing, unexpected or of another shape.
        """
        tensors = self._tensors[role]
        if flaw := flaw_in_state(tensors, state):
            raise RuntimeError(f"adapter {role}: {flaw}")
        for name, tensor in tensors.items():
            tensor.copy_(state[name])

    def rounded_policy(self, dtype: torch.dtype | None = None) -> AdapterState:
        """The policy as the server will hold it: rounded to the server's dtype, or to ``dtype`` if given."""
        state = self.adapter_state(Role.POLICY)
        return {name: tensor.to(dtype or self.serve_dtype) for name, tensor in state.items()}

    def export_policy(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the rounded policy as a PEFT adapter into an existing folder."""
        settings = self.model.peft_config[Role.POLICY]
        write_adapter(folder, self.rounded_policy(dtype), settings)

    def activate(self, role: Role) -> None:
        """Let the model compute with this role's adapter.

        PEFT's own set_adapter walks through every module and parameter: 5 ms on the tiny model.
        """
        for layer in self._lora_layers:
            layer._active_adapter = [role]

    def _hidden_states(self, role: Role, rows: TokenRows) -> Tensor:
        """[R · W, H] last hidden states, row after row."""
        self.activate(role)
        if self._decoder is not None:
            return self._decoder(role, rows.token_ids, rows.position_ids, rows.attention_mask)
        with announced_pass(self.shared_passes), self._autocast:
            hidden: Tensor = self.model.get_base_model().model(
                input_ids=rows.token_ids, **self._attention.inputs(rows), use_cache=False
            )[0]
        return hidden.flatten(0, 1)

    def micro_batches(
        self, samples: Sequence[Sample], *, token_budget: int, num_shards: int = 1
    ) -> list[MicroBatch]:
        """Samples laid out for this base; see `trainer.model.batches.batch.micro_batches`."""
        return micro_batches(
            samples,
            token_budget=token_budget,
            hidden_size=self.hidden_size,
            device=self.device,
            num_shards=num_shards,
            shares_prefixes=self._attention.shares_prefixes,
        )

    def token_logprobs(
        self, role: Role, batch: MicroBatch, nuclei: Sequence[Nucleus] | None = None
    ) -> TokenLogprobs:
        """Logprobs of the completion tokens under a role, at each one's temperature and top-p.

        Args:
            role: The adapter to compute with.
            batch: B completions of up to C tokens.
            nuclei: The nuclei to normalise over; None finds them from this role's own logits.
                Pass the proximal policy's, so that both are normalised over the same tokens.
        """
        sampled = batch.sampled
        found = distinct_logprobs(
            gathered(self._hidden_states(role, batch.rows), sampled.states),
            self.model.get_base_model().lm_head,
            sampled,
            nuclei,
        )
        zero = found.logprobs.new_zeros(())
        return TokenLogprobs(
            logprobs=torch.where(batch.mask, gathered(found.logprobs, batch.sampled_index), zero),
            entropy=torch.where(batch.mask, found.entropy[batch.sampled_index], zero),
            nuclei=found.nuclei,
        )

    def completion_logprobs(
        self, role: Role, samples: Sequence[Sample], *, token_budget: int
    ) -> list[Tensor]:
        """For each sample, its completion's logprobs under a role; see `logprobs_by_sampling`."""
        return self.logprobs_by_sampling(role, samples, [AS_ASKED], token_budget=token_budget)[0]

    @torch.no_grad()
    def logprobs_by_sampling(
        self,
        role: Role,
        samples: Sequence[Sample],
        samplings: Sequence[Sampling],
        *,
        token_budget: int,
    ) -> list[list[Tensor]]:
        """For each way of sampling and each sample, its completion's logprobs, [C] on the CPU.

        Args:
            role: The adapter to compute with, and to find the nuclei with; see `token_logprobs`.
            samples: Completions; their own logprobs are not read.
            samplings: How they may have been sampled; all share the forward passes.
            token_budget: The most tokens of one forward pass.
        """
        found: list[dict[int, Tensor]] = [{} for _ in samplings]
        head = self.model.get_base_model().lm_head
        for batch in self.micro_batches(samples, token_budget=token_budget):
            hidden = self._hidden_states(role, batch.rows)[batch.sampled.states]
            mask = batch.mask.cpu()
            for by_sample, sampling in zip(found, samplings, strict=True):
                sampled = sampling.applied(batch.sampled)
                logprobs = distinct_logprobs(hidden, head, sampled, None).logprobs
                rows = zip(
                    batch.indices, logprobs[batch.sampled_index].float().cpu(), mask, strict=True
                )
                by_sample.update({index: row[kept] for index, row, kept in rows})
        return [[by_sample[index] for index in range(len(samples))] for by_sample in found]

    def values(self, batch: MicroBatch) -> Tensor:
        """[B, C + 1] the critic's values of the states before each completion token and after the last.

        On padding, and where the last state is terminal, the value of the state before is repeated.
        """
        hidden = self._hidden_states(Role.CRITIC, batch.rows)
        return gathered(scalars(self.value_head, hidden.float()), batch.states)
