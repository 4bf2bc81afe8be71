"""Questions with gold answers, and where they come from."""
