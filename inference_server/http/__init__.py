"""The routes, their guards and their errors."""
