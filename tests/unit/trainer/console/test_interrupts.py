"""Ctrl-C while modules are imported; tests/unit/trainer/test_cli.py interrupts real commands."""

import signal
import threading

from trainer.console.interrupts import leaving_at_interrupt


def test_the_handler_of_an_interrupt_is_as_before_after_the_block() -> None:
    before = signal.getsignal(signal.SIGINT)
    with leaving_at_interrupt():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_than_the_main_one_handles_no_signal() -> None:
    before, reached = signal.getsignal(signal.SIGINT), threading.Event()

    def run() -> None:
        with leaving_at_interrupt():
            if signal.getsignal(signal.SIGINT) is before:
                reached.set()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert reached.is_set()
