"""Online PPO: a loop of rollouts, update and push."""
