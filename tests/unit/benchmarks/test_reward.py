"""The command line of the reward's benchmark."""

import sys

import pytest

from benchmarks import reward


@pytest.mark.parametrize(("flag", "code"), [("--help", 0), ("--hlep", 2)])
def test_a_command_line_that_asks_for_no_measurement_measures_nothing(
    flag: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward, "seconds", None)
    monkeypatch.setattr(sys, "argv", ["reward.py", flag])
    with pytest.raises(SystemExit) as ended:
        reward.main()
    assert ended.value.code == code
