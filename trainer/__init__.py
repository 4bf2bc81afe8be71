"""The trainer: rollouts in, PPO on a LoRA policy, new adapters out."""
