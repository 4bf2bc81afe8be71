"""The model of the tests."""

from trainer.commands.tiny_pretraining import TinyModelRecipe

TINY = TinyModelRecipe(num_steps=0, num_layers=2)
"""Half as deep as the demo's, and not trained: most of what the suite takes is its products."""
