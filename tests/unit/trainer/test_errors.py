import pytest

from inference_server.wire import settings_errors
from trainer import errors


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("no such file", "no such file"),
        ("\n  no such file\nin any of", "no such file"),
        ("", "OSError"),
        (" \n\n", "OSError"),
    ],
)
def test_the_first_line_of_an_error_is_never_empty(message: str, line: str) -> None:
    error = OSError(message)
    assert errors.first_line(error) == settings_errors.first_line(error) == line
