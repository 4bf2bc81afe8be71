"""A Llama-like decoder with LoRA adapters, in few operations."""
