"""Online PPO: rollouts, update, push, and again."""
