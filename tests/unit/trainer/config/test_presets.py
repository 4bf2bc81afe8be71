"""The shipped configurations: every command of the recipe reads them, and no key of them is unread."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from trainer.config.loading import load_config
from trainer.config.sections import TrainConfig
from trainer.config.stages import SECTIONS, CollectConfig, OfflineRunConfig, SFTRunConfig

FILES = sorted((Path(__file__).parents[4] / "deploy/configs").glob("*.toml"))
COMMANDS = [TrainConfig, SFTRunConfig, CollectConfig, OfflineRunConfig]


def test_there_are_presets_for_both_sizes_in_16_and_4_bits() -> None:
    presets = [load_config(TrainConfig, ["--config", str(f)], prog="t").policy for f in FILES]
    sizes = {(p.base_model.rsplit("/", 1)[1], p.quantization) for p in presets}
    assert sizes == {
        ("tiny-base", None),
        *((name, q) for name in ("Qwen2.5-1.5B-Instruct", "Qwen3-8B") for q in (None, "nf4")),
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_its_sections_of_a_file(command: type[BaseModel], file: Path) -> None:
    found = load_config(command, ["--config", str(file)], prog="test").model_dump(mode="json")
    for name, section in tomllib.loads(file.read_text()).items():
        assert name in SECTIONS
        if name in command.model_fields:
            assert section.items() <= comparable(found[name], section).items()


def comparable(found: dict[str, Any], section: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in section}


def test_a_section_that_no_command_has_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[sfd]\nnum_examples = 3\n")
    with pytest.raises(SystemExit):
        load_config(TrainConfig, ["--config", str(path)], prog="test")
    assert "sfd: unknown key" in capsys.readouterr().err
