"""Recomputes a run from its journal, with the same settings or with changed ones."""
