"""Standard input, output and error where a program was started with one of them closed."""

import os
import sys

_STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))


def open_standard_streams() -> None:
    """Opens ``/dev/null`` for each of the three streams that is closed, as after ``>&-`` in a shell.

    The next file or socket would get the stream's number otherwise, and a library that writes a warning to standard
    error would write it into a checkpoint or an HTTP answer.
    """
    for number, name, mode in _STREAMS:
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given out, and all lower ones are open by now.
            os.open(os.devnull, os.O_RDWR)
            # The interpreter has None for a stream that was closed when it started.
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
