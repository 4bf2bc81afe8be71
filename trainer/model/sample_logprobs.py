"""Logprobs of samples under a role, sample by sample."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.model.batch import Sample, micro_batches
from trainer.model.roles import PolicyRoles, Role


@torch.no_grad()
def sample_logprobs(
    roles: PolicyRoles, role: Role, samples: Sequence[Sample], *, token_budget: int
) -> list[Tensor]:
    """Of each sample's completion, [C] on the CPU, at its temperature and inside the role's nuclei.

    Args:
        roles: The model.
        role: Whose adapter.
        samples: Their own logprobs are not read.
        token_budget: Most tokens of one forward pass.
    """
    by_sample: dict[int, Tensor] = {}
    for batch in micro_batches(
        samples, token_budget=token_budget, hidden_size=roles.hidden_size, device=roles.device
    ):
        logprobs = roles.score(role, batch).logprobs.float().cpu()
        rows = zip(batch.indices, logprobs, batch.mask.cpu(), strict=True)
        by_sample |= {index: row[mask] for index, row, mask in rows}
    return [by_sample[index] for index in range(len(samples))]
