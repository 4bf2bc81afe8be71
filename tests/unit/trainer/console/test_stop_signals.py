"""A signal ends a wait at once, and other work once it is done; a second signal ends everything."""

import os
import pty
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future

import pytest

from trainer.console.stop_signals import EndedBySignal, Stopped, stop_signals

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("number", SIGNALS)
def test_work_is_finished_first(number: signal.Signals) -> None:
    with stop_signals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(Stopped), stop.waiting():
            raise AssertionError("nothing is waited for any more")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_wait_for_what_never_comes_is_left(number: signal.Signals) -> None:
    never: Future[None] = Future()
    with stop_signals() as stop:
        killer = threading.Timer(0.1, os.kill, (os.getpid(), number))
        killer.start()
        with pytest.raises(Stopped), stop.waiting():
            never.result()
        killer.join()
    assert stop.requested


def test_a_wait_that_is_over_is_not_left() -> None:
    with stop_signals() as stop:
        with stop.waiting():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


@pytest.mark.parametrize("asked_before", [True, False])
def test_the_end_of_a_step_gets_a_moment_after_it_was_asked_to_stop(asked_before: bool) -> None:
    soon: Future[str] = Future()
    never: Future[None] = Future()
    with stop_signals() as stop:
        if asked_before:
            os.kill(os.getpid(), signal.SIGTERM)
        answer = threading.Timer(0.2, soon.set_result, ("answer",))
        with stop.waiting(grace_s=60.0):
            answer.start()
            if not asked_before:
                os.kill(os.getpid(), signal.SIGTERM)
            assert soon.result() == "answer"
        with pytest.raises(Stopped), stop.waiting(grace_s=0.1):
            never.result()
        # The timers of waits that are over do nothing any more.
        assert stop.requested
    answer.join()


def test_asked_twice_it_ends_at_once_and_the_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(caught.value, EndedBySignal)
    assert caught.value.exit_code == 143
    assert [signal.getsignal(number) for number in SIGNALS] == before


# One call of minutes, such as a backward pass: no handler runs before it returns.
LONG_CALL = """
import hashlib
from trainer.console.stop_signals import stop_signals
with stop_signals():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_asked_twice_within_one_long_call_the_process_ends(number: signal.Signals) -> None:
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_CALL], stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            first = process.stderr.readline()
            process.send_signal(number)
            assert process.wait() == 128 + number
            second = process.stderr.read()
        finally:
            process.kill()
    assert first.startswith(f"{number.name}: stopping")
    assert second.startswith(f"{number.name}: ended at once")


def test_what_is_said_on_a_terminal_begins_below_the_bar() -> None:
    terminal, inner = pty.openpty()
    code = """
import os, signal
from trainer.console.stop_signals import stop_signals
with stop_signals():
    os.write(2, b"2/6 33%")
    os.kill(os.getpid(), signal.SIGINT)
"""
    with open(terminal, "rb", buffering=0) as shown:
        subprocess.run([sys.executable, "-c", code], stderr=inner, check=True)
        os.close(inner)
        assert shown.read(4096).startswith(b"2/6 33%\r\nSIGINT: stopping")
