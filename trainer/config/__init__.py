"""Every section of the configuration, every command's, and how they are read."""
