"""The sections of the configuration, the configurations of the commands, and how they are read."""
