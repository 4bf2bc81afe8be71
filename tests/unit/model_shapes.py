"""Shapes of real models without their weights, and completions of random tokens; benchmarks use them too."""

import random

from transformers import PretrainedConfig, Qwen2Config, Qwen3Config

from regime_w import build_all_arms
from trainer.model.batches.batch import Sample

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
    num_questions: int, *, prompt_tokens: int, completion_tokens: int, vocabulary: int = VOCABULARY
) -> list[list[Sample]]:
    """Random tokens for each question and arm; the arms of a family share their prompt."""
    rng = random.Random(0)
    arms = build_all_arms()
    made = []
    for _ in range(num_questions):
        prompts = {
            arm.system_prompt: tuple(rng.choices(range(min(5_000, vocabulary)), k=prompt_tokens))
            for arm in arms
        }
        made.append(
            [
                Sample(
                    prompt_ids=prompts[arm.system_prompt],
                    completion_ids=tuple(rng.choices(range(vocabulary), k=completion_tokens)),
                    sampler_logprobs=(-1.0,) * completion_tokens,
                    temperature=arm.temperature,
                    top_p=arm.top_p,
                    reward=rng.random(),
                    truncated=False,
                    version=1,
                )
                for arm in arms
            ]
        )
    return made
