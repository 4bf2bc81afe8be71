"""Laps that add up, and the server's busy time over overlapping requests."""

import pytest

from trainer.console import timing
from trainer.console.timing import BusyTime, StepClock


class Time:
    """A clock that tests set."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(timing, "time", time)
    return time


def test_overlapping_requests_are_busy_once_and_an_open_one_counts_so_far(time: Time) -> None:
    busy = BusyTime()
    with busy:
        time.now += 1
        with busy:
            time.now += 2
        time.now += 4
    time.now += 8
    assert busy.seconds == 7
    with busy:
        time.now += 16
        assert busy.seconds == 7 + 16


def test_a_step_says_how_long_each_phase_took_and_who_waited(time: Time) -> None:
    busy = BusyTime()
    with busy:
        time.now += 50  # before the step
        clock = StepClock(busy)
        time.now += 1
        clock.lap("wait")
        time.now += 2
        clock.lap("prove")
        time.now += 4
    clock.lap("update")
    time.now += 0.5
    clock.lap("prove")
    time.now += 2.5
    assert clock.metrics() == pytest.approx(
        {
            "time/wait_s": 1,
            "time/prove_s": 2.5,
            "time/update_s": 4,
            "time/step_s": 10,
            "time/trainer_wait_share": 0.1,
            "time/server_idle_share": 0.3,
        }
    )
