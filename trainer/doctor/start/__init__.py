"""Checks of what `train` refuses at its start, by the checks of `train` itself and without changing anything."""
