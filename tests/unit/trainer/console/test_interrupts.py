"""Ctrl-C while modules are imported; tests/unit/trainer/test_cli.py interrupts real commands."""

import signal
import threading
from collections.abc import Iterator

import pytest

from trainer.console.interrupts import leaving_at_interrupt


@pytest.fixture(autouse=True)
def before() -> Iterator[object]:
    """Python's own handler, also if whoever started the tests has them ignore the signal."""
    started_with = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, started_with)


def test_the_handler_of_an_interrupt_is_as_before_after_the_block(before: object) -> None:
    with leaving_at_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_than_the_main_one_handles_no_signal(before: object) -> None:
    reached = threading.Event()

    def run() -> None:
        with leaving_at_interrupt():
            if signal.getsignal(signal.SIGINT) is before:
                reached.set()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reached.is_set()
