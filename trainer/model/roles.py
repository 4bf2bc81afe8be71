"""The roles of PPO on one frozen base: policy, proximal, reference and critic.

Each role is a LoRA adapter on the same base weights; the critic has a value head beside. The
proximal role holds the weights of a published version, rounded to the server's dtype, so that the
trainer scores tokens with exactly what generated them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from trainer.config.sections import PolicyConfig
from trainer.errors import UsageError
from trainer.model.base_model import load_base
from trainer.model.batch import MicroBatch, TokenRows
from trainer.model.token_logprobs import Nucleus, score_sampled

AdapterState = dict[str, Tensor]
"""An adapter's tensors under PEFT's file names, e.g. ``base_model.model.….lora_A.weight``."""


def read_adapter(folder: Path) -> AdapterState:
    """The tensors of an adapter's folder."""
    state: AdapterState = load_file(folder / ADAPTER_WEIGHTS_FILE)
    return state


def serialized(state: AdapterState) -> bytes:
    """An adapter's weights file."""
    data: bytes = save(state, metadata={"format": "pt"})
    return data


class Role(StrEnum):
    """The adapters on the base."""

    POLICY = "policy"
    PROXIMAL = "proximal"
    REFERENCE = "reference"
    CRITIC = "critic"


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Of the sampled completion tokens, [B, C], zero on padding."""

    logprobs: Tensor
    entropy: Tensor
    """In nats, of the distribution that was sampled from; no gradient."""
    nucleus_mask: tuple[Nucleus, ...]
    """What they are normalised over where top_p < 1."""


class _FusedLora(LoraVariant):  # type: ignore[misc]
    """LoRA whose sum is part of its second product; PEFT's is two more passes over the output."""

    @staticmethod
    def forward(
        module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        low = module.lora_A[active_adapter](x)
        up = module.lora_B[active_adapter].weight
        # A product in the base's dtype, which is what the server computes in.
        fused = torch.addmm(
            result.flatten(0, -2),
            low.flatten(0, -2).to(result.dtype),
            up.T.to(result.dtype),
            alpha=module.scaling[active_adapter],
        )
        return fused.view_as(result)


class PolicyRoles(nn.Module):
    """One frozen base with an adapter for each role and a value head for the critic."""

    def __init__(self, config: PolicyConfig, *, device: torch.device, serve_dtype: torch.dtype):
        """Load the base and start every role from the same adapter.

        Args:
            config: Base model, starting adapter (or the shape of a fresh one) and dtype.
            device: Where everything lives.
            serve_dtype: What the server rounds adapters to.

        Raises:
            UsageError: The base attends to less than all earlier tokens, or the starting adapter
                has dropout or is no LoRA adapter.
        """
        super().__init__()
        self.device = device
        self.serve_dtype = serve_dtype
        base = load_base(config, device)
        kinds = set(getattr(base.config, "layer_types", None) or ()) - {"full_attention"}
        if kinds or getattr(base.config, "sliding_window", None):
            raise UsageError(
                f"policy.base_model {config.base_model}: {min(kinds, default='sliding_attention')} "
                "layers; prefix trees need full attention"
            )
        self.hidden_size = int(base.config.hidden_size)
        if config.adapter is None:
            lora = LoraConfig(
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                target_modules=list(config.target_modules),
                lora_dropout=0.0,
                task_type="CAUSAL_LM",
            )
            self.model = get_peft_model(base, lora, adapter_name=Role.POLICY)
        else:
            settings = json.loads((config.adapter / ADAPTER_CONFIG_FILE).read_text())
            if settings.get("peft_type") != "LORA":
                raise UsageError(f"policy.adapter {config.adapter}: not a LoRA adapter")
            # Dropout would make the trainer's logprobs differ from the server's.
            self.model = PeftModel.from_pretrained(
                base, config.adapter, adapter_name=Role.POLICY, is_trainable=True
            )
            lora = self.model.peft_config[Role.POLICY]
            if lora.lora_dropout:
                raise UsageError(
                    f"policy.adapter {config.adapter}: lora_dropout is {lora.lora_dropout}; "
                    "PPO needs 0, or the trainer's logprobs differ from the server's"
                )
        for role in (Role.PROXIMAL, Role.REFERENCE, Role.CRITIC):
            self.model.add_adapter(role, lora)
        # Once: to find them, PEFT walks through every module, which takes longer than to copy them.
        self._tensors: dict[Role, AdapterState] = {
            role: get_peft_model_state_dict(self.model, adapter_name=role) for role in Role
        }
        start = self.adapter_state(Role.POLICY)
        for role in (Role.PROXIMAL, Role.REFERENCE, Role.CRITIC):
            self.load_adapter_state(role, start)
        self.value_head = nn.Linear(self.hidden_size, 1).to(device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._lora_layers = [m for m in self.model.modules() if isinstance(m, LoraLayer)]
        for layer in self._lora_layers:
            for role in Role:
                if role in layer.lora_A and not layer.lora_bias[role]:
                    layer.lora_variant.setdefault(role, _FusedLora())
        # Both at once, so that a change of role touches nothing but a name.
        self.model.set_requires_grad([Role.PROXIMAL, Role.REFERENCE], requires_grad=False)
        self.model.set_requires_grad([Role.POLICY, Role.CRITIC], requires_grad=True)
        self.model.eval()
        self._autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.autocast)
        if config.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            # Layers recompute in training mode alone; what is in them stays free of dropout.
            for module in base.modules():
                if isinstance(module, GradientCheckpointingLayer):
                    module.training = True

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
            RuntimeError: A tensor is missing, is one too many or has another shape.
        """
        tensors = self._tensors[role]
        if wrong := sorted(tensors.keys() ^ state.keys()):
            word = "missing" if wrong[0] in tensors else "unexpected"
            raise RuntimeError(f"adapter {role}: {word} tensor {wrong[0]} ({len(wrong)} in all)")
        for name, tensor in tensors.items():
            if tensor.shape != state[name].shape:
                raise RuntimeError(
                    f"adapter {role}: {name} has shape {tuple(state[name].shape)}, not "
                    f"{tuple(tensor.shape)}"
                )
            tensor.copy_(state[name])

    def rounded_policy(self, dtype: torch.dtype | None = None) -> AdapterState:
        """The policy as the server will hold it: rounded to its dtype, or to another."""
        state = self.adapter_state(Role.POLICY)
        return {name: tensor.to(dtype or self.serve_dtype) for name, tensor in state.items()}

    def export_policy(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write the rounded policy as a PEFT adapter into an existing folder."""
        (folder / ADAPTER_WEIGHTS_FILE).write_bytes(serialized(self.rounded_policy(dtype)))
        settings: dict[str, Any] = self.model.peft_config[Role.POLICY].to_dict()
        settings["inference_mode"] = True
        (folder / ADAPTER_CONFIG_FILE).write_text(
            json.dumps(settings, indent=2, sort_keys=True, default=sorted)
        )

    def activate(self, role: Role) -> None:
        """Let the model compute with this role's adapter.

        PEFT's own set_adapter walks through every module and parameter: 5 ms on the tiny model.
        """
        for layer in self._lora_layers:
            layer._active_adapter = [role]

    def _hidden_states(self, role: Role, rows: TokenRows) -> Tensor:
        """[R · W, H] last hidden states of the rows, one after the other."""
        self.activate(role)
        with self._autocast:
            hidden: Tensor = self.model.get_base_model().model(
                input_ids=rows.token_ids,
                position_ids=rows.position_ids,
                attention_mask=rows.attention_mask,
                use_cache=False,
            )[0]
        return hidden.flatten(0, 1)

    def score(
        self, role: Role, batch: MicroBatch, nucleus_mask: Sequence[Nucleus] | None = None
    ) -> TokenScores:
        """Logprobs of the completion tokens under a role, at each one's temperature and top-p.

        Args:
            role: Whose adapter.
            batch: B completions of up to C tokens.
            nucleus_mask: The nuclei to normalise over. Where None they are found from this role's own
                logits; pass the proximal policy's so that both share one nucleus_mask.
        """
        sampled = batch.sampled
        scores = score_sampled(
            self._hidden_states(role, batch.rows)[sampled.states],
            self.model.get_base_model().lm_head,
            sampled,
            nucleus_mask,
        )
        zero = scores.logprobs.new_zeros(())
        return TokenScores(
            logprobs=torch.where(batch.mask, scores.logprobs[batch.sampled_index], zero),
            entropy=torch.where(batch.mask, scores.entropy[batch.sampled_index], zero),
            nucleus_mask=scores.nucleus_mask,
        )

    def values(self, batch: MicroBatch) -> Tensor:
        """[B, C + 1] critic's values of the states before each completion token and after the last.

        Where the last state is terminal and on padding, the value of the state before is repeated.
        """
        hidden = self._hidden_states(Role.CRITIC, batch.rows)
        values: Tensor = self.value_head(hidden.float()).squeeze(-1)[batch.states]
        return values
