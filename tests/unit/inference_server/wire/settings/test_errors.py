import pytest

from inference_server.wire.settings.errors import first_line


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
    assert first_line(OSError(message)) == line
