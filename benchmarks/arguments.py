"""What the command lines of the benchmarks have in common."""

import argparse
from pathlib import Path


def benchmark_parser(doc: str | None, *, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser without flags yet.

    Args:
        doc: The program's docstring, of which ``--help`` shows the first line.
        prog: How the program is called; needed where the usage line would say ``__main__.py``.
    """
    return argparse.ArgumentParser(
        prog=prog, description=(doc or "").splitlines()[0], allow_abbrev=False
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, the base model's folder."""
    parser.add_argument(
        "--model", type=Path, default=Path("models/tiny-base"), help="[%(default)s]"
    )
