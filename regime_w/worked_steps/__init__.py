"""The equations of a worked solution."""
