"""Exports a run's policy: merged weights or an adapter, with a model card, to a folder or to the Hub."""
