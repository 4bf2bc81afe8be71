"""PPO from a file of rollouts, without a server."""
