"""Computes a step's experience on several ranks and gives all of it to each of them."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from trainer.model.batches.batch import MicroBatch
from trainer.model.batches.row_packing import row_cost
from trainer.ppo.experience import Experience, MiniBatch
from trainer.ranks.process_group import Ranks
from trainer.ranks.shards import fewer_than_most, shards_by_cost


def experience_of_all_ranks(
    planned: Sequence[Sequence[MicroBatch]],
    compute: Callable[[MicroBatch], Experience],
    ranks: Ranks,
    pass_for_others: Callable[[], None] | None,
    *,
    num_shards: int,
    hidden_size: int,
) -> list[MiniBatch]:
    """The experience of every micro-batch; each is computed by the rank that has its shard.

    Args:
        planned: The micro-batches of each mini-batch, the same on every rank.
        compute: Makes a micro-batch's experience.
        ranks: The processes of the job.
        pass_for_others: Takes part in the passes of another rank's micro-batch; None if ranks share no passes.
        num_shards: The number of shards of a mini-batch.
        hidden_size: The model's hidden size; determines the costs by which micro-batches are divided.

    Raises:
        RankLostError: A rank has ended.
        NonFiniteError, torch.OutOfMemoryError: ``compute`` raised it on a rank.
    """
    shards = [
        shards_by_cost([_cost(batch, hidden_size) for batch in batches], num_shards)
        for batches in planned
    ]
    places = [(m, i) for m, batches in enumerate(planned) for i in range(len(batches))]
    of_this_rank: dict[tuple[int, int], Experience] = {}

    def part() -> dict[tuple[int, int], dict[str, Tensor | None]]:
        for m, i in places:
            if shards[m][i] % ranks.size == ranks.rank:
                of_this_rank[m, i] = compute(planned[m][i])
        if pass_for_others is not None:
            for _ in range(fewer_than_most(ranks, [shards[m][i] for m, i in places])):
                pass_for_others()
        if ranks.size == 1:
            return {}
        return {place: _to_send(experience) for place, experience in of_this_rank.items()}

    received = {
        place: tensors for found in ranks.gathered(part) for place, tensors in found.items()
    }
    mini_batches: list[MiniBatch] = [[] for _ in planned]
    for m, i in places:
        if (m, i) in of_this_rank:
            experience = of_this_rank[m, i]
        else:
            batch = planned[m][i]
            tensors: dict[str, Any] = {
                name: None if tensor is None else tensor.to(batch.mask.device)
                for name, tensor in received[m, i].items()
            }
            experience = Experience(batch=batch, nuclei=(), **tensors)
        mini_batches[m].append(replace(experience, shard=shards[m][i]))
    return mini_batches


def _cost(batch: MicroBatch, hidden_size: int) -> float:
    num_rows, width = batch.rows.token_ids.shape
    return num_rows * float(row_cost(np.array(width), hidden_size))


def _to_send(experience: Experience) -> dict[str, Tensor | None]:
    """The tensors that a rank has computed, on the CPU; the other ranks have everything else already."""
    computed = [f.name for f in fields(Experience) if f.name not in ("batch", "shard", "nuclei")]
    tensors = {name: getattr(experience, name) for name in computed}
    return {name: None if tensor is None else tensor.cpu() for name, tensor in tensors.items()}
