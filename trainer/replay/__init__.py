"""A run recomputed from its journal: the same again, or under another setting."""
