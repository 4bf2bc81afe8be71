"""What a command says about settings that may not be meant."""

from trainer.config.ppo import PPOConfig

_LOW = 1e-5


def low_learning_rate(key: str, learning_rate: float) -> list[str]:
    """One line where LoRA hardly learns at a rate, else none.

    Args:
        key: The setting's name.
        learning_rate: AdamW's, of a LoRA adapter.
    """
    if learning_rate >= _LOW:
        return []
    return [
        f"{key} = {learning_rate:g} is low: LoRA learns at about 10 × the rate of full fine-tuning; "
        f"take {_LOW:g} or more"
    ]


def ppo_advice(ppo: PPOConfig, num_steps: int) -> list[str]:
    """A line for each: LoRA hardly learns at the rate, no step trains the policy.

    Args:
        ppo: A run's settings.
        num_steps: Steps of the whole run.
    """
    lines = low_learning_rate("ppo.learning_rate", ppo.learning_rate)
    if ppo.advantage != "gae" or ppo.critic_warmup_steps < num_steps:
        return lines
    return [
        *lines,
        f"ppo.critic_warmup_steps = {ppo.critic_warmup_steps} trains the critic alone, and the run has "
        f"{num_steps}: the policy stays as it is; set it lower, or run more steps",
    ]
