"""A step on a GPU: compared with the same step on a CPU in float32, and when memory runs out."""

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainer.config.sections import PolicyConfig, PPOConfig, RunConfig
from trainer.errors import OutOfMemoryError
from trainer.model.adapter import AdapterState
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role
from trainer.ppo.learner import Learner

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

BUDGET = 8192
GPU = torch.device("cuda")


def make_groups(num_questions: int, num_tokens: int) -> list[list[Sample]]:
    """Groups of random tokens."""
    rng = random.Random(0)
    return [
        [
            Sample(
                prompt_ids=(question, 7, 8),
                completion_ids=tuple(rng.choices(range(500), k=num_tokens)),
                sampler_logprobs=(-6.0,) * num_tokens,
                temperature=1.0,
                top_p=1.0,
                reward=rng.random(),
                truncated=False,
                version=0,
            )
            for _ in range(4)
        ]
        for question in range(num_questions)
    ]


def make_learner(base: Path, device: torch.device, dtype: str) -> Learner:
    """A learner with the same adapters and value head on every device."""
    policy = PolicyConfig.model_validate({"base_model": str(base), "dtype": dtype})
    ppo = {"token_budget": BUDGET, "critic_warmup_steps": 0, "questions_per_mini_batch": 64}
    roles = PolicyRoles(policy, device=device, serve_dtype=torch.bfloat16)
    torch.manual_seed(0)
    # PEFT's own start is replaced, since it depends on the seed before this one.
    start = {n: 0.05 * torch.randn(t.shape) for n, t in roles.adapter_state(Role.POLICY).items()}
    for role in Role:
        roles.load_adapter_state(role, start)
    return Learner(PPOConfig.model_validate(ppo), RunConfig(), roles)


def gradients(learner: Learner, num_questions: int = 4) -> AdapterState:
    """AdamW's first moment after the first step: its average of the gradient."""
    proximal = learner.roles.rounded_policy()
    learner.step(1, make_groups(num_questions, 24), proximal, learning_rate_scale=1.0)
    state = learner.update.policy_optimizer.state
    parameters = learner.roles.adapter_parameters(Role.POLICY)
    return {str(i): state[p]["exp_avg"].float().cpu() for i, p in enumerate(parameters)}


def norm(*states: AdapterState) -> float:
    """The norm of a state, or of the difference of two."""
    first, *others = states
    return math.sqrt(
        sum(float((t - sum(o[n] for o in others)).square().sum()) for n, t in first.items())
    )


@pytest.mark.parametrize(("dtype", "part"), [("float32", 0.01), ("bfloat16", 0.1)])
def test_a_step_is_the_cpus_in_float32_up_to_rounding(
    dtype: str, part: float, tiny_base: Path
) -> None:
    exact = gradients(make_learner(tiny_base, torch.device("cpu"), "float32"))
    found = gradients(make_learner(tiny_base, GPU, dtype))
    assert norm(found, exact) < part * norm(exact)


@pytest.fixture
def learner(tiny_base: Path) -> Iterator[Learner]:
    """A learner on the GPU; after the test, any cap on the GPU's memory is removed."""
    yield make_learner(tiny_base, GPU, "bfloat16")
    torch.cuda.set_per_process_memory_fraction(1.0)


def peak_bytes(learner: Learner, budget: int) -> int:
    """The GPU memory that a step with this token budget takes."""
    learner.token_budget = budget
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    gradients(learner, num_questions=64)
    assert learner.token_budget == budget
    return torch.cuda.max_memory_reserved()


def cap(num_bytes: float) -> None:
    """Let the process have no more GPU memory than this."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(num_bytes / total)


def test_a_step_that_runs_out_of_memory_is_done_in_halves(learner: Learner) -> None:
    whole, half = peak_bytes(learner, BUDGET), peak_bytes(learner, BUDGET // 2)
    assert half < 0.9 * whole
    learner.token_budget = BUDGET
    cap((whole + half) / 2)
    gradients(learner, num_questions=64)
    assert learner.token_budget == BUDGET // 2


def test_what_does_not_fit_in_halves_names_the_settings(learner: Learner) -> None:
    half = peak_bytes(learner, BUDGET // 2)
    learner.token_budget = BUDGET
    torch.cuda.empty_cache()
    cap((half + torch.cuda.memory_reserved()) / 2)
    with pytest.raises(OutOfMemoryError, match=r"ppo\.token_budget"):
        gradients(learner, num_questions=64)
