"""The commands, except for online PPO, evaluation, replay and report, which have packages of their own."""
