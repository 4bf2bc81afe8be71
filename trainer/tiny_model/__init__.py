"""The tiny base model of demo and tests: its weights, and how they were trained."""
