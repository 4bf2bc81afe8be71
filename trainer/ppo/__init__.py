"""PPO: from scored samples to a moved policy."""
