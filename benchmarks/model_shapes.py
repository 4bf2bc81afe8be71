"""Shapes of real models without their weights, and completions of random tokens, for benchmarks and tests."""

import random
from collections.abc import Sequence

from transformers import PretrainedConfig, Qwen2Config, Qwen3Config

from regime_w import ArmSpec, build_all_arms
from trainer.model.batches.sample import Sample

VOCABULARY = 151_936

QWEN2_1_5B = Qwen2Config(
    vocab_size=VOCABULARY,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)
QWEN3_8B = Qwen3Config(
    vocab_size=VOCABULARY,
    hidden_size=4096,
    intermediate_size=12_288,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
)

PRESETS: dict[str, PretrainedConfig] = {"gsm8k_a100": QWEN2_1_5B, "gsm8k_a100_8b": QWEN3_8B}
"""The presets of deploy/configs, and the shape of each one's base model."""


def random_groups(
    num_questions: int,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    spread_tokens: int = 0,
    shared_tokens: int = 0,
    vocabulary: int = VOCABULARY,
    arms: Sequence[ArmSpec] | None = None,
    seed: int = 0,
) -> list[list[Sample]]:
    """Random tokens for each question and arm; arms with the same system prompt share their prompt.

    Args:
        num_questions: How many.
        prompt_tokens: Of every prompt.
        completion_tokens: Of every completion, on average.
        spread_tokens: How much shorter or longer one may be.
        shared_tokens: How many first tokens of a completion are those of the other arms with its prompt.
        vocabulary: The model's.
        arms: The recipe's without.
        seed: Seed of tokens, lengths and rewards.
    """
    rng = random.Random(seed)
    arms = build_all_arms() if arms is None else arms
    made = []
    for _ in range(num_questions):
        prompts = {
            arm.system_prompt: tuple(rng.choices(range(min(5_000, vocabulary)), k=prompt_tokens))
            for arm in arms
        }
        starts = {
            prompt: tuple(rng.choices(range(vocabulary), k=shared_tokens)) for prompt in prompts
        }
        lengths = [completion_tokens + rng.randint(-spread_tokens, spread_tokens) for _ in arms]
        made.append(
            [
                Sample(
                    prompt_ids=prompts[arm.system_prompt],
                    completion_ids=(
                        *starts[arm.system_prompt],
                        *rng.choices(range(vocabulary), k=length - shared_tokens),
                    ),
                    sampler_logprobs=(-1.0,) * length,
                    temperature=arm.temperature,
                    top_p=arm.top_p,
                    reward=rng.random(),
                    truncated=False,
                    version=1,
                )
                for arm, length in zip(arms, lengths, strict=True)
            ]
        )
    return made
