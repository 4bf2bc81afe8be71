"""An arms request: what it asks for, its prompts, and the groups that answer it."""
