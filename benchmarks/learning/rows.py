"""What is compared in `python -m benchmarks.learning`: each row's name, and the flags by which it differs from the demo."""

RANDOM_REWARD = "random reward"
AT_RANDOM = ("--reward.functions", '["benchmarks.learning.random_reward:random_reward"]')
"""The flags of the row `RANDOM_REWARD`."""
DEFAULT = "exploring, grpo (the demo)"
RECIPE_ARMS = ("--rollout.arms", "recipe")


def with_critic(*, learning_rate: str = "5e-3", warmup_steps: int = 0) -> tuple[str, ...]:
    """Flags of a run with GAE."""
    return (
        *("--ppo.advantage", "gae", "--ppo.critic_learning_rate", learning_rate),
        *("--ppo.critic_warmup_steps", str(warmup_steps), "--ppo.value_clip", "1.0"),
    )


CRITIC = with_critic()
ROWS: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "exploring, gae": CRITIC,
    "exploring, gae, λ 1": (*CRITIC, "--ppo.gae_lambda", "1"),
    "exploring, gae, critic at 1e-3": with_critic(learning_rate="1e-3"),
    "exploring, gae, two epochs": (*CRITIC, "--ppo.num_epochs", "2"),
    "exploring, gae, critic alone at first": with_critic(warmup_steps=2),
    "exploring, rloo": ("--ppo.advantage", "rloo"),
    "dynamic sampling": ("--rollout.dynamic_sampling",),
    "one version behind": ("--rollout.max_staleness", "1", "--run.num_threads", "1"),
    "rate 2.5e-4": ("--ppo.learning_rate", "2.5e-4"),
    "rate 1e-3": ("--ppo.learning_rate", "1e-3"),
    "rate 2e-3": ("--ppo.learning_rate", "2e-3"),
    "mini-batches of 2 questions": ("--ppo.questions_per_mini_batch", "2"),
    "mini-batches of 3 questions": ("--ppo.questions_per_mini_batch", "3"),
    "mini-batches of 3 questions, no KL": (
        *("--ppo.questions_per_mini_batch", "3", "--ppo.kl_coef", "0"),
    ),
    "mini-batches of 3 questions, exploring, gae": (
        *("--ppo.questions_per_mini_batch", "3", *CRITIC),
    ),
    "no KL": ("--ppo.kl_coef", "0"),
    "per_arm, gae": (*RECIPE_ARMS, *CRITIC),
    "shared, random arm (recipe)": (
        *RECIPE_ARMS,
        *CRITIC,
        *("--reward.credit", "shared", "--reward.selection", "random"),
        *("--reward.formulas", "original"),
    ),
    "difference, gae": (*RECIPE_ARMS, *CRITIC, "--reward.credit", "difference"),
    "per_arm, rloo": (*RECIPE_ARMS, "--ppo.advantage", "rloo"),
    "per_arm, grpo": RECIPE_ARMS,
    RANDOM_REWARD: AT_RANDOM,
}
