"""Warnings about settings that may not be intended."""

from trainer.config.ppo import PPOConfig

_LOW = 1e-5
_LITTLE = 1e-2
"""The share of a reward below which a token hardly learns from it."""


def low_learning_rate(key: str, learning_rate: float) -> list[str]:
    """A warning if LoRA hardly learns at this learning rate; else an empty list.

    Args:
        key: The setting's name.
        learning_rate: AdamW's learning rate for a LoRA adapter.
    """
    if learning_rate >= _LOW:
        return []
    return [
        f"{key} = {learning_rate:g} is low: LoRA learns at about 10 × the rate of full fine-tuning; "
        f"take {_LOW:g} or more"
    ]


def ppo_advice(ppo: PPOConfig, max_tokens: int, num_steps: int) -> list[str]:
    """Warnings: LoRA hardly learns, rewards hardly reach a completion's first tokens, or no step trains the policy.

    Args:
        ppo: A run's settings.
        max_tokens: ``rollout.max_tokens``.
        num_steps: Steps of the whole run.
    """
    lines = low_learning_rate("ppo.learning_rate", ppo.learning_rate)
    if ppo.advantage != "gae":
        return lines
    left = ppo.gae_lambda ** (max_tokens - 1)
    if ppo.length_adaptive_alpha is None and left < _LITTLE:
        lines.append(
            f"ppo.gae_lambda = {ppo.gae_lambda:g} is low for rollout.max_tokens = {max_tokens}: {left:.0e} of a "
            "reward at the end reaches the first token; take 1, or ppo.length_adaptive_alpha = 0.05"
        )
    if ppo.critic_warmup_steps >= num_steps:
        lines.append(
            f"ppo.critic_warmup_steps = {ppo.critic_warmup_steps} covers all {num_steps} steps of the run: only the "
            "critic is trained, and the policy stays as it is; set it lower, or run more steps"
        )
    return lines


def no_kl_line(ppo: PPOConfig) -> list[str]:
    """A line if a KL penalty is configured for a run from a file, where it is always 0; else an empty list.

    Args:
        ppo: The run's settings.
    """
    if ppo.kl_coef == 0:
        return []
    return [
        "no KL penalty: the reference is the policy that every step is compared with, so ppo.kl_coef, "
        "ppo.adaptive_kl and ppo.target_kl have no effect in train-offline; ppo.clip_low and ppo.clip_high keep the "
        "policy near it, and ppo/approx_kl in metrics.jsonl says how far it has moved"
    ]
