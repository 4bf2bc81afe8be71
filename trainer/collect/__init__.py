"""Collecting rollouts into a file."""
