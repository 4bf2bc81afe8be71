"""PPO: from scored samples to an updated policy."""
