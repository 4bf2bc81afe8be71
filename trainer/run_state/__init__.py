"""What a run keeps on disk and comes back from: folder, journal, checkpoints."""
