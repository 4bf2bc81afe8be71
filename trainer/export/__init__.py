"""A run's policy handed on: merged weights or an adapter with a model card, in a folder or on the Hub."""
