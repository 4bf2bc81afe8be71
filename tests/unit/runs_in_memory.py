"""Whole runs of the training loop against a server in memory, small enough for unit tests."""

import json
from pathlib import Path
from typing import Any

import torch

from regime_w import ArmSpec
from tests.unit.memory_server import MemoryServer
from trainer.config.sections import PolicyConfig, TrainConfig
from trainer.model.roles import PolicyRoles
from trainer.online.loop import TrainResult
from trainer.online.setup import train as train_online

ARMS = [
    ArmSpec(name=f"arm_{i}", system_prompt="Be brief.", temperature=0.5 + i / 4, top_p=1.0)
    for i in range(3)
]


def write_questions(path: Path) -> Path:
    """Seven questions whose answer is 1."""
    rows = [{"question": f"What is {i}?", "answer": "#### 1"} for i in range(7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_config(
    base: Path, folder: Path, questions: Path, **sections: dict[str, Any]
) -> TrainConfig:
    """A configuration that uses everything that a run carries from step to step; ``sections`` change parts of it."""
    given: dict[str, dict[str, Any]] = {
        "policy": {"base_model": str(base), "lora_rank": 2},
        "data": {
            "source": str(questions),
            "evaluation_source": "word-problems",
            "curriculum": 1,
        },
        "rollout": {
            "questions_per_step": 2,
            "max_tokens": 8,
            "arms": ARMS,
            "seed": 3,
            "max_staleness": 1,
            "dynamic_sampling": True,
        },
        "ppo": {
            "learning_rate": 1e-3,
            "learning_rate_schedule": "linear",
            "critic_warmup_steps": 1,
            "questions_per_mini_batch": 1,
            "kl_horizon_steps": 1,
        },
        "run": {
            "folder": folder,
            "num_steps": 3,
            "checkpoint_every": 2,
            "num_checkpoints": 1,
            "num_adapters": 3,
            "num_threads": 1,
            "evaluate_every": 2,
            "num_evaluation_questions": 2,
        },
    }
    for name, section in sections.items():
        given.setdefault(name, {}).update(section)
    return TrainConfig.model_validate(given)


def small_config(base: Path, folder: Path, *, num_steps: int, **ppo: Any) -> TrainConfig:
    """A small run of two arms, otherwise mostly with default settings; ``ppo`` are settings of its update."""
    return TrainConfig.model_validate(
        {
            "policy": {"base_model": str(base), "lora_rank": 2},
            "data": {"num_questions": 64},
            "rollout": {"questions_per_step": 2, "max_tokens": 8, "arms": ARMS[:2], "seed": 3},
            "ppo": {"critic_warmup_steps": 0, **ppo},
            "run": {"folder": folder, "num_steps": num_steps, "num_threads": 1},
        }
    )


def server_roles(base: Path) -> PolicyRoles:
    """Roles of the shape that runs here have, for a server to score with."""
    config = PolicyConfig(base_model=str(base), lora_rank=2)
    return PolicyRoles(config, device=torch.device("cpu"), serve_dtype=torch.float32)


def train(config: TrainConfig, server: MemoryServer, *, must_resume: bool = False) -> TrainResult:
    return train_online(config, client=server, must_resume=must_resume)
