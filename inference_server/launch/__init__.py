"""Starting the server, and ending it."""
