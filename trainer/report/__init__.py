"""Is RL helping? A run's verdict, findings, charts and transcripts."""
