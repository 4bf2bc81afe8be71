"""What a run keeps on disk and resumes from: folder, journal, checkpoints."""
