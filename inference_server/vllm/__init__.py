"""The vLLM engine, and what it needs to run on a CPU."""
