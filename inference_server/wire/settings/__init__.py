"""Settings of server and trainer: where they come from, how they are read, and what is said if they are wrong."""
