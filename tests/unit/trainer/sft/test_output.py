"""Folders that an SFT may write its adapter to, and those whose content it would destroy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config.sections import SFTRunConfig
from trainer.errors import UsageError
from trainer.io.kept_settings import as_toml
from trainer.sft.output import require_output


def checkpoint_of_a_run(folder: Path) -> None:
    (folder / "checkpoints/step-000010").mkdir(parents=True)


def journal(folder: Path) -> None:
    (folder / "journal.jsonl").write_text("{}\n")


def version_of_a_run(folder: Path) -> None:
    (folder / "adapters/policy-000001").mkdir(parents=True)


def checkpoint_of_an_sft(folder: Path) -> None:
    state = folder / "checkpoints/checkpoint-5/trainer_state.json"
    state.parent.mkdir(parents=True)
    state.touch()


@pytest.mark.parametrize(
    "begin", [checkpoint_of_a_run, journal, version_of_a_run, checkpoint_of_an_sft]
)
def test_what_has_begun_and_lost_its_settings_is_no_output(
    begin: Callable[[Path], None], tmp_path: Path
) -> None:
    begin(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        UsageError, match=r"config\.toml: missing, and the (run|SFT) has begun; restore"
    ):
        require_output(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "config.toml").write_text("[elsewhere]\n")
    with pytest.raises(UsageError, match=r"config\.toml: not the settings of an SFT, and the"):
        require_output(tmp_path)


def test_a_new_folder_and_an_sft_to_go_on_with_are_outputs(tmp_path: Path) -> None:
    require_output(tmp_path / "new")
    require_output(tmp_path)
    checkpoint_of_an_sft(tmp_path)
    (tmp_path / "config.toml").write_text(as_toml(SFTRunConfig()))
    require_output(tmp_path)
