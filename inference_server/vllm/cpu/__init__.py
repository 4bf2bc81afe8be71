"""What vLLM needs on a CPU: its environment and flags, and faster or corrected parts of its model code."""
