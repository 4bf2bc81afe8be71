"""The roles of PPO on one frozen base, batches, and logprobs of tokens."""
