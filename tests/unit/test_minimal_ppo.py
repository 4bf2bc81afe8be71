"""examples/minimal_ppo.py: what a user can get wrong is one line and an exit code."""

import sys
from collections.abc import Callable

import httpx
import pytest

from examples import minimal_ppo

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_main(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["minimal_ppo.py", *arguments])
        code = minimal_ppo.main()
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        return code, line

    return run_main


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        (("--url", "http://[::1"), "", "--url http://[::1: no server: "),
        (("--url", "127.0.0.1:9"), "", "--url 127.0.0.1:9: no server: "),
        (("--url", "localhost:9"), "", "--url localhost:9: no server: "),
        ((), "cl\xe9", "REGIME_W_API_KEY: must be printable ASCII"),
        ((), "key\n", "REGIME_W_API_KEY: must be printable ASCII"),
        (("--steps", "0"), "", "--steps 0: must be at least 1"),
        (("--mini-batch", "0"), "", "--mini-batch 0: must be at least 1"),
        (("--eval-questions", "-1"), "", "--eval-questions -1: must be at least 1"),
    ],
)
def test_a_bad_setting_is_one_line(
    arguments: tuple[str, ...], key: str, message: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIME_W_API_KEY", key)
    code, line = run(*arguments)
    assert code == 2
    assert line.startswith(f"minimal_ppo: error: {message}")


@pytest.mark.parametrize("body", [b'{"status": "ok"}', b"<html>"])
def test_another_kind_of_server_is_one_line(
    body: bytes, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpx.Client, "request", lambda *_, **__: httpx.Response(200, content=body))
    code, line = run("--url", "http://somewhere/")
    assert code == 2
    assert line == "minimal_ppo: error: --url http://somewhere: not a Regime W server"


def test_ctrl_c_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> httpx.Response:
        raise KeyboardInterrupt

    monkeypatch.setattr(httpx.Client, "request", interrupt)
    assert run() == (130, "minimal_ppo: interrupted")
