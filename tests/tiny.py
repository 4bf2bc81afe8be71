"""The model of the tests without a server."""

from trainer.commands.tiny_pretraining import TinyModelRecipe

TINY = TinyModelRecipe(num_steps=0, num_layers=2)
"""Half as deep as the demo's, and not trained: most of what these tests take is its products."""
