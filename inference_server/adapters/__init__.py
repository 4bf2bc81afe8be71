"""Versions of the policy: checked, stored, loaded, activated."""
