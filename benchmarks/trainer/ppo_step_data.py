"""Roles and completions for the benchmark of a PPO step: what the tiny model samples, and random tokens."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.model_shapes import random_groups
from regime_w import build_all_arms, build_prompt
from trainer.config.sections import PolicyConfig
from trainer.data.sources import load_records
from trainer.data.word_problems import Split
from trainer.model.batches.sample import Sample
from trainer.model.roles import PolicyRoles, Role

CPU = torch.device("cpu")
ARMS = build_all_arms()
Groups = list[list[Sample]]


def random_roles(model: Path) -> PolicyRoles:
    torch.manual_seed(0)
    roles = PolicyRoles(PolicyConfig(base_model=str(model)), device=CPU, serve_dtype=torch.float32)
    with torch.no_grad():
        for role in (Role.POLICY, Role.PROXIMAL, Role.CRITIC):
            for parameter in roles.adapter_parameters(role):
                parameter.add_(1e-3 * torch.randn_like(parameter))
    return roles


def sampled_groups(model: Path, *, num_questions: int) -> Groups:
    """Completions that the base model samples in all arms."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(model)
    records = load_records("word-problems", Split.TRAIN, num_records=num_questions)
    groups: Groups = [[] for _ in records]
    for arm in ARMS:
        prompts = [build_prompt(arm.system_prompt, record.question) for record in records]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        sequences = policy.generate(
            **batch,
            do_sample=True,
            temperature=arm.temperature,
            top_p=arm.top_p,
            top_k=0,
            max_new_tokens=40,
            pad_token_id=tokenizer.pad_token_id,
        )
        for group, prompt, sequence in zip(groups, prompts, sequences, strict=True):
            completion = sequence[batch.input_ids.shape[1] :].tolist()
            ended = tokenizer.eos_token_id in completion
            if ended:
                completion = completion[: completion.index(tokenizer.eos_token_id) + 1]
            group.append(
                Sample(
                    prompt_ids=tuple(tokenizer(prompt).input_ids),
                    completion_ids=tuple(completion),
                    sampler_logprobs=(-1.0,) * len(completion),
                    temperature=arm.temperature,
                    top_p=arm.top_p,
                    reward=float(len(completion) % 3),
                    truncated=not ended,
                    version=0,
                )
            )
    return groups


def synthetic_groups(num_questions: int, *, num_prompt: int, num_completion: int) -> Groups:
    """Random tokens: the arms of a family share their prompt and the first half of their completions."""
    return random_groups(
        num_questions,
        prompt_tokens=num_prompt,
        completion_tokens=num_completion,
        shared_tokens=num_completion // 2,
        vocabulary=500,
    )
