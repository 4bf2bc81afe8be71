"""Supervised fine-tuning of a LoRA adapter on demonstrations."""
