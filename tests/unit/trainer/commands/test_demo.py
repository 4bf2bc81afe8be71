import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from inference_server.launch.server_process import ServerFailed, ServerProcess
from trainer.commands import demo
from trainer.commands.demo import next_lines, sample_lines, serve_until_stopped, stage

URL = "http://127.0.0.1:8000"


def server(log: Path, code: str) -> ServerProcess:
    """A process in place of a server, which runs ``code``."""
    log.write_text("its log\n")
    return ServerProcess(
        url=URL, process=subprocess.Popen([sys.executable, "-c", code]), log_path=log
    )


@pytest.mark.parametrize("serving", [False, True])
def test_the_demo_ends_with_commands_that_fit_a_terminal(
    serving: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(Path(".venv/bin/python").absolute()))
    lines = next_lines(Path("runs/demo"), URL, serving=serving)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert ("--config demo --state-dir runs/demo/server" in text) is not serving
    assert "playground" in text
    assert URL in text
    assert "regime-w watch runs/demo" in text


def test_the_servers_address_is_named_where_it_is_not_the_default() -> None:
    assert sample_lines(None) == sample_lines(URL)
    assert "--server.url http://127.0.0.1:8765" in sample_lines("http://127.0.0.1:8765")[0]


def test_stages_are_broken_between_words_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Console(force_terminal=True, no_color=True, width=40, highlight=False)
    monkeypatch.setattr(demo, "console", terminal)
    stage(3, "server", "vLLM and its playground, log in runs/demo/server.log")
    lines = capsys.readouterr().out.splitlines()
    assert [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in lines] == [
        "[3/6] server: vLLM and its playground,",
        "log in runs/demo/server.log",
    ]


def test_the_server_serves_until_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = server(tmp_path / "log", "")

    def interrupted() -> None:
        raise KeyboardInterrupt

    running.process.wait()
    monkeypatch.setattr(running.process, "wait", interrupted)
    serve_until_stopped(running)


def test_a_server_that_ends_by_itself_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="exit code 3\nits log"):
        serve_until_stopped(server(tmp_path / "log", "raise SystemExit(3)"))
