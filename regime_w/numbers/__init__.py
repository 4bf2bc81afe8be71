"""Numbers and equations as people write them in text."""
