"""Evaluates several models on the same held-out questions: answers, statistics, tables."""
