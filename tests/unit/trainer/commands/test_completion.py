"""What a shell completes; each script is run by its shell."""

import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

from inference_server.wire.settings.sources import presets
from trainer.cli import COMMANDS, main


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    def printed(shell: str) -> str:
        monkeypatch.setattr(sys, "argv", ["regime-w", "--print-completion", shell])
        main()
        return capsys.readouterr().out

    return printed


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    name = words[0].replace("-", "_")
    lines = [
        script,
        'COMP_WORDS=("$@")',
        "COMP_CWORD=$(($# - 1))",
        f"_{name}",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines), "bash", *words], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_flags_and_presets(script: Callable[[str], str]) -> None:
    text = script("bash")
    assert completed(text, "regime-w", "") == [*COMMANDS, "score", "--help", "--version"]
    assert completed(text, "regime-w", "tr") == ["train", "train-offline"]
    assert completed(text, "regime-w", "train", "--ppo.learning_rate_w") == [
        "--ppo.learning_rate_warmup_steps"
    ]
    assert completed(text, "regime-w", "train", "--v") == ["--verbose"]
    assert completed(text, "regime-w", "diff", "--") == ["--config", "--help", "--limit"]
    assert completed(text, "regime-w", "replay", "--f") == ["--from"]
    assert completed(text, "regime-w", "score", "--w_e") == ["--w_end"]
    assert completed(text, "regime-w", "sft", "--config", "") == [*presets()]
    # The shell's own completion of files follows.
    assert completed(text, "regime-w", "report", "runs/") == []


def test_bash_completes_the_server(script: Callable[[str], str]) -> None:
    text = script("bash")
    assert completed(text, "regime-w-server", "--max-loa") == ["--max-loaded-versions"]
    assert completed(text, "regime-w-server", "--config", "de") == ["demo"]
    offered = completed(text, "regime-w-server", "--")
    assert {"--version", "--help", "--model", "--state-dir", "--max-model-len"} < {*offered}
    assert "--api-key" not in offered  # flags show in the list of processes


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
@pytest.mark.parametrize("program", ["regime-w", "regime-w-server"])
def test_zsh_takes_the_script(program: str, script: Callable[[str], str]) -> None:
    lines = [script("zsh"), 'printf "%s\\n" "${_comps[$1]}"']
    done = subprocess.run(
        ["zsh", "-f", "-c", "\n".join(lines), "zsh", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.split()[0] == "_bash_complete"


@pytest.mark.parametrize("given", [[], ["fish"], ["bash", "zsh"]])
def test_another_shell_is_refused(
    given: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/regime-w", "--print-completion", *given])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "regime-w: error: --print-completion: takes one of bash, zsh"
