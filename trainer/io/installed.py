"""Says which optional libraries are installed, without loading them."""

from importlib.util import find_spec


def is_installed(library: str) -> bool:
    """Whether a library can be imported.

    A folder of that name is not a library: W&B makes a folder ``wandb`` where it runs, which Python would import as an
    empty package.

    Args:
        library: Name of its top-level module.
    """
    found = find_spec(library)
    return found is not None and found.origin is not None
