"""Steps on random completions by one process or several; run as a program, this is one process of several.

``python steps.py BASE_MODEL FOLDER CASE…`` writes the final state of the first rank into the folder.
"""

import os
import random
import sys
from pathlib import Path
from typing import Any

import torch

from trainer.config.sections import PolicyConfig, TrainConfig
from trainer.errors import TrainerError
from trainer.model.batches.sample import Sample
from trainer.model.roles import Role
from trainer.ppo.leader_and_followers import FollowerStart, follow, leading, make_learner
from trainer.ppo.learner import Learner
from trainer.ppo.learner_state import learner_state
from trainer.ranks.process_group import Ranks, joined_ranks

NUM_STEPS = 2
_PPO: dict[str, Any] = {
    "learning_rate": 1e-2,
    "critic_learning_rate": 1e-2,
    "questions_per_mini_batch": 3,
    "critic_warmup_steps": 0,
    "token_budget": 64,
    "adaptive_kl": True,
}
CASES: dict[str, dict[str, Any]] = {
    "gae": {"advantage": "gae"},
    "rloo": {"advantage": "rloo", "num_epochs": 2},
    "grpo": {"advantage": "grpo", "kl_coef": 0.0, "skip_zero_advantages": True},
    # Stops between two mini-batches of the second epoch.
    "stop_kl": {"advantage": "gae", "num_epochs": 4, "stop_kl": 1e-3},
    "masked": {"advantage": "gae", "sequence_mask": 2.0, "truncation": "mask"},
}
SHARDED: dict[str, dict[str, Any]] = {
    "sharded": {"advantage": "gae"},
    "sharded, recomputed": {"advantage": "gae", "token_budget": 32},
    # One question has equal rewards, so that a mini-batch of only this question leaves the policy as it is.
    "sharded, rloo": {
        "advantage": "rloo",
        "kl_coef": 0.0,
        "questions_per_mini_batch": 1,
        "skip_zero_advantages": False,
    },
}
"""Cases with a base that is divided among the ranks, at the default learning rates."""
_DEFAULT_RATES = {"learning_rate": 5e-5, "critic_learning_rate": 5e-5}
ONE_SHARD = "one shard"
"""The steps of a run with one rank, repeated by two ranks."""
LOSES_MEMORY, ENDS = "loses memory", "ends"
"""What happens to the second rank in further cases, which are otherwise `gae`."""
NOT_FINITE, SHARDED_LOSES_MEMORY = "sharded, not finite", "sharded, loses memory"
_SHARDED_FAULTS: dict[str, dict[str, Any]] = {
    NOT_FINITE: {"advantage": "gae", "learning_rate": 1e30},
    SHARDED_LOSES_MEMORY: {"advantage": "gae"},
}


def make_groups(step: int) -> list[list[Sample]]:
    """Five groups of completions of very different lengths, one group with equal rewards."""
    rng = random.Random(step)
    groups = []
    for question in range(5):
        prompt = tuple(rng.choices(range(500), k=rng.choice((3, 20))))
        groups.append(
            [
                Sample(
                    prompt_ids=prompt,
                    completion_ids=tuple(rng.choices(range(500), k=length)),
                    sampler_logprobs=tuple(rng.uniform(-7, -4) for _ in range(length)),
                    temperature=(0.5, 1.0)[i % 2],
                    top_p=(0.9, 1.0)[i % 2],
                    reward=1.0 if question == 2 else rng.uniform(-0.5, 1.5),
                    truncated=i == 3,
                    version=0,
                )
                for i in range(4)
                for length in [rng.choice((1, 4, 12))]
            ]
        )
    return groups


def start_of(base_model: str, case: str) -> FollowerStart:
    """The start of a case."""
    sharded = {**SHARDED, **_SHARDED_FAULTS}
    policy = PolicyConfig(
        base_model=base_model,
        lora_rank=4,
        lora_alpha=8,
        shard_base=case in sharded,
        gradient_checkpointing=case.endswith("recomputed"),
    )
    ppo = CASES.get(case, CASES["gae"])
    if case in sharded:
        ppo = {**_DEFAULT_RATES, **sharded[case]}
    config = TrainConfig.model_validate({"policy": policy, "ppo": {**_PPO, **ppo}})
    return FollowerStart(config=config, policy=policy, serve_dtype=torch.float32)


def do_steps(learner: Learner) -> list[dict[str, float]]:
    """Do some steps, starting from random weights that all differ; returns the metrics."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for role in (Role.POLICY, Role.REFERENCE, Role.CRITIC):
            for parameter in learner.roles.adapter_parameters(role):
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_(0.1 * noise)
    found = []
    for step in range(1, NUM_STEPS + 1):
        proximal = learner.roles.adapter_state(Role.POLICY)
        # A step without any reward, which the other ranks hear nothing of.
        learner.step(step, [[]], proximal, learning_rate_scale=1.0)
        done = learner.step(step, make_groups(step), proximal, learning_rate_scale=1.0)
        found.append(done.by_name())
    return found


def lose_memory_once() -> None:
    """Let the next backward pass of this process run out of memory."""
    real = torch.Tensor.backward

    def backward(self: torch.Tensor, *arguments: object) -> None:
        torch.Tensor.backward = real  # type: ignore[method-assign]
        raise torch.OutOfMemoryError("CUDA out of memory")

    torch.Tensor.backward = backward  # type: ignore[method-assign]


def end_in_backward() -> None:
    """Let this process end in the middle of its next backward pass."""
    torch.Tensor.backward = lambda *_: os._exit(9)  # type: ignore[method-assign]


_FAULTS = {
    LOSES_MEMORY: lose_memory_once,
    SHARDED_LOSES_MEMORY: lose_memory_once,
    ENDS: end_in_backward,
}


def count_states(ranks: Ranks) -> list[None]:
    """Returns a list that gets an item each time the first rank gives its state to the others."""
    sent: list[None] = []
    send = ranks.broadcast_bytes

    def broadcast_bytes(message: bytes) -> bytes:
        sent.append(None)
        return send(message)

    ranks.broadcast_bytes = broadcast_bytes  # type: ignore[method-assign]
    return sent


def lead(ranks: Ranks, base_model: str, case: str, folder: Path) -> None:
    """Do the first rank's part of a case, and write its result or error into the folder."""
    with leading(ranks):
        learner = make_learner(start_of(base_model, case), ranks)
        if case == ONE_SHARD:
            learner.update.num_shards = 1
        num_states = count_states(ranks)
        found: dict[str, Any] = {}
        try:
            found["metrics"] = do_steps(learner)
        except TrainerError as error:
            found["error"] = repr(error)
            found["num_updates"] = len(learner.update.critic_optimizer.state)
        found["token_budget"] = learner.token_budget
        found["num_states"] = len(num_states)
        torch.save({**learner_state(learner.roles, learner.update), **found}, folder / f"{case}.pt")


def main(base_model: str, folder: Path, cases: list[str]) -> None:
    """Do this process's part of the cases."""
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        for case in cases:
            # The initial weights differ from rank to rank.
            torch.manual_seed(ranks.rank)
            if ranks.rank == 0:
                lead(ranks, base_model, case, folder)
                continue
            _FAULTS.get(case, lambda: None)()
            follow(ranks)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
