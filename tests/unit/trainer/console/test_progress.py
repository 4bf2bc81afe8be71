import time

import pytest

from trainer.console.progress import duration, step_lines


def test_lines_in_a_log_say_how_long_it_still_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with step_lines("sft") as on_step:
        for step in (50, 51, 60, 100):  # resumed at 50
            on_step(step, 100, 0.5)
            now += 20.0 if step != 50 else 1.0
    assert capsys.readouterr().out.splitlines() == [
        "sft step 50/100 loss 0.5000",
        "sft step 60/100 loss 0.5000, 84 s left",
        "sft step 100/100 loss 0.5000, 0 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (99.4, "99 s"), (99.5, "2 min"), (5969, "99 min"), (33120, "9 h 12 min")],
)
def test_a_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said
