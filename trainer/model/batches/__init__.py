"""Completions as prefix trees in rows, and the micro-batches that these make up."""
