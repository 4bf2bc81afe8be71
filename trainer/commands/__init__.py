"""What each command does, beside online PPO, evaluation, replay and report."""
