"""What a run's metrics show, each with its evidence and the setting to change."""
