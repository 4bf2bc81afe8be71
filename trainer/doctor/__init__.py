"""Whether a run can start on this machine."""
