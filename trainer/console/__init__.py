"""What a run shows while it works, and how it is stopped."""
