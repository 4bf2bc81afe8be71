"""The state that a step changes: adapters, value head, the optimizers' moments and the KL coefficient.

Checkpoints contain it, and the first rank of a job sends it to the others.
"""

from collections.abc import Mapping
from typing import Any

import torch

from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.optimizers import parameters_of
from trainer.ppo.update import PPOUpdate

_ROLES = (Role.POLICY, Role.REFERENCE, Role.CRITIC)


def learner_state(roles: PolicyRoles, update: PPOUpdate) -> dict[str, Any]:
    """The learner's state; adapters are copied, optimizers and value head share their tensors with the learner."""
    return {
        **{role.value: roles.adapter_state(role) for role in _ROLES},
        "value_head": roles.value_head.state_dict(),
        "policy_optimizer": update.policy_optimizer.state_dict(),
        "critic_optimizer": update.critic_optimizer.state_dict(),
        "kl_coef": update.kl.coef,
    }


def load_learner_state(state: Mapping[str, Any], roles: PolicyRoles, update: PPOUpdate) -> None:
    """Overwrite a learner's state.

    Raises:
        KeyError: A part is missing.
        RuntimeError, ValueError, TypeError: A part belongs to another model or adapter shape.
    """
    for role in _ROLES:
        roles.load_adapter_state(role, state[role.value])
    roles.value_head.load_state_dict(state["value_head"])
    update.policy_optimizer.load_state_dict(state["policy_optimizer"])
    update.critic_optimizer.load_state_dict(state["critic_optimizer"])
    update.kl.coef = state["kl_coef"]


@torch.no_grad()
def fingerprint(roles: PolicyRoles, update: PPOUpdate) -> tuple[float, ...]:
    """Norms of everything in the state; equal on ranks with equal states, and cheaper than a digest."""
    optimizers = update.policy_optimizer, update.critic_optimizer
    tensors: list[torch.Tensor] = [*roles.adapter_parameters(Role.REFERENCE)]
    for optimizer in optimizers:
        tensors += parameters_of(optimizer)
        for parameter in parameters_of(optimizer):
            moments = optimizer.state.get(parameter, {})
            tensors += [t.float() for t in moments.values() if isinstance(t, torch.Tensor)]
    return (update.kl.coef, *(float(norm) for norm in torch.stack(_norms(tensors)).tolist()))


def _norms(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    device = tensors[0].device
    # AdamW counts its steps on the CPU.
    found = torch._foreach_norm([t.to(device) for t in tensors])
    return [norm.double() for norm in found]
