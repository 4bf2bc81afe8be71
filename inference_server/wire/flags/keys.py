"""Which key of the settings a flag names."""


def key_of(argument: str) -> str:
    """The key that a flag names, with or without a value behind ``=``; empty for a word that is not a flag."""
    flag = argument.partition("=")[0]
    return flag[2:].replace("-", "_") if flag.startswith("--") else ""
