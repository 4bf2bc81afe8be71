"""``python -m trainer COMMAND``, and the program ``regime-w``; see `trainer.cli`."""

import sys

from trainer.console.interrupts import (
    INTERRUPTED_EXIT_CODE,
    interrupted_line,
    leaving_at_interrupt,
)


def main() -> None:
    """Run a command; one that is interrupted, even while it starts, ends with one line and exit code 130."""
    try:
        with leaving_at_interrupt():
            from trainer.cli import main as run_command
        run_command()
    except KeyboardInterrupt:
        print(interrupted_line(), file=sys.stderr)
        sys.exit(INTERRUPTED_EXIT_CODE)


if __name__ == "__main__":
    main()
