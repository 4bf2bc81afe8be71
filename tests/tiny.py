"""The model that tests without a server use."""

from trainer.tiny_model.pretraining import TinyModelRecipe

TINY = TinyModelRecipe(num_steps=0, num_layers=2)
"""Half as deep as the demo's, and not trained: these tests spend most of their time in its matrix products."""
