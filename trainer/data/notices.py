"""Lines that a command prints at its start about what it takes of its questions, and what it leaves out."""


def line_of_more(source: str, num_taken: int, key: str) -> str:
    """The line for a source with more questions than are taken, which ``key`` limits."""
    return f"data: {source} has more than {num_taken} questions; only the first {num_taken} of them are taken, as {key} says"
