"""Selects the completions that prove a version."""

from collections.abc import Collection, Sequence

from torch import Tensor

from inference_server.wire.schemas import ArmGroup
from trainer.model.batches.sample import Sample
from trainer.ppo.experience import MiniBatch
from trainer.rollouts.groups import as_sample


def scored_samples(
    mini_batches: Sequence[MiniBatch], wanted: Collection[Sample] | None, *, max_tokens: int
) -> tuple[list[Sample], list[Tensor]]:
    """A step's completions, until ``max_tokens`` are reached, and their logprobs under the proximal policy, [C] each.

    Only completions in ``wanted`` are taken; all of them if it is None.
    """
    samples: list[Sample] = []
    logprobs: list[Tensor] = []
    num_tokens = 0
    for e in (e for mini_batch in mini_batches for e in mini_batch):
        if num_tokens >= max_tokens:
            break
        rows = zip(
            e.batch.samples, e.proximal_logprobs.float().cpu(), e.batch.mask.cpu(), strict=True
        )
        chosen = [(s, row[mask]) for s, row, mask in rows if wanted is None or s in wanted]
        samples += [sample for sample, _ in chosen]
        logprobs += [row for _, row in chosen]
        num_tokens += sum(len(row) for _, row in chosen)
    return samples, logprobs


def samples_of(groups: Sequence[ArmGroup]) -> list[Sample]:
    """The completions of groups, in order."""
    return [as_sample(arm, version=group.policy_version) for group in groups for arm in group.arms]
