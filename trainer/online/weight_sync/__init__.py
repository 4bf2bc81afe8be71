"""The weight-sync check: proves that the server serves what was pushed."""
