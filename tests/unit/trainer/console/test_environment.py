"""Which log lines and progress bars of libraries are kept off a command's terminal."""

import os
import sys

import pytest

from trainer.console.environment import prepare_environment


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_shows_downloads_and_no_other_bars(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", variables)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    prepare_environment()
    assert variables["HF_DATASETS_DISABLE_PROGRESS_BARS"] == "1"
    assert variables["TRANSFORMERS_NO_ADVISORY_WARNINGS"] == "1"
    assert ("HF_HUB_DISABLE_PROGRESS_BARS" in variables) == (not is_terminal)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "0"}
    monkeypatch.setattr(os, "environ", variables)
    prepare_environment()
    assert variables["HF_DATASETS_DISABLE_PROGRESS_BARS"] == "0"
