"""The command line: which flags there are, what their help says, and how they are read."""
