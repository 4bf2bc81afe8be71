"""All that the trainer may import of the server: what crosses the wire. Loads neither torch nor vllm."""
