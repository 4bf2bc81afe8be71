"""Waiting for a server is bounded from its first failure on, and logged now and then."""

import time
from collections.abc import Callable

import pytest

from trainer.client.retries import Outage, Patience

SetClock = Callable[[float], None]


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    def set_clock(now_s: float) -> None:
        monkeypatch.setattr(time, "monotonic", lambda: now_s)

    set_clock(1000.0)
    return set_clock


def test_patience_lasts_from_the_first_failure_on(set_clock: SetClock) -> None:
    patience = Patience(60.0)
    set_clock(5000.0)  # An answer that was long in coming has cost none of it.
    assert patience.lasts()
    set_clock(5059.9)
    assert patience.lasts()
    set_clock(5060.0)
    assert not patience.lasts()


def test_no_patience_is_one_attempt() -> None:
    assert not Patience(0.0).lasts()


def test_an_outage_is_told_when_it_begins_now_and_then_and_when_it_is_over(
    set_clock: SetClock, caplog: pytest.LogCaptureFixture
) -> None:
    found = Outage(600.0, is_logged=True)
    found.over()
    for now_s in (1000.0, 1001.0, 1029.9, 1030.0, 1045.0):
        set_clock(now_s)
        found.failed("/v1/status", "refused")
    set_clock(1050.0)
    found.over()
    found.over()
    set_clock(1060.0)
    found.failed("/v1/adapters/3", "ReadError")
    assert [record.getMessage() for record in caplog.records] == [
        'event=server_fails path=/v1/status reason="refused" for_s=0.0 give_up_after_s=600',
        'event=server_fails path=/v1/status reason="refused" for_s=30.0 give_up_after_s=600',
        "event=server_answers after_s=50.0 failures=5",
        'event=server_fails path=/v1/adapters/3 reason="ReadError" for_s=0.0 give_up_after_s=600',
    ]
