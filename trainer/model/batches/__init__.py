"""Lays completions out as prefix trees in rows, and the rows in micro-batches."""
