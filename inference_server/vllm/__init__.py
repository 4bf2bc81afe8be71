"""The engine: vLLM, and how it runs on a CPU."""
