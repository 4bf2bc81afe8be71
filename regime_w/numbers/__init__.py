"""Numbers as people write them in text."""
