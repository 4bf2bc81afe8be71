"""The inference server: vLLM's OpenAI server with arms, versioned adapters and a policy alias."""
