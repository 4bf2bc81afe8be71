"""The commands, except for those that have packages of their own, such as online PPO, collection and evaluation."""
