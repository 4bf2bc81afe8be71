"""Which settings work resumes with: those it was begun with, by an earlier version of the program too."""

import shutil
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from regime_w import ArmSpec, build_all_arms
from trainer.config.sections import CollectConfig, RolloutConfig, SFTRunConfig, TrainConfig
from trainer.errors import UsageError
from trainer.io.kept_settings import CONFIG_FILE, as_toml, keep_settings
from trainer.run_state.run_folder import read_run_config

OLD_RUN = Path(__file__).parents[3] / "fixtures/verdict/improves" / CONFIG_FILE
"""Written when arms were null and dynamic sampling had another name."""
YOUNGER = ("run.num_adapters", "run.metrics_host")
"""Keys that did not exist then; a run may change them anyway. All others must compare equal."""
SOLO = ArmSpec(name="solo", system_prompt="Be brief.", temperature=0.7, top_p=1.0)


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    shutil.copy(OLD_RUN, tmp_path / CONFIG_FILE)
    return tmp_path


def test_a_run_of_an_earlier_version_resumes(old_run: Path) -> None:
    path = old_run / CONFIG_FILE
    stored = tomllib.loads(path.read_text())["rollout"]
    assert "arms" not in stored
    assert stored["refill_zero_variance"] is False
    config = read_run_config(old_run)
    assert config.rollout.arms == build_all_arms()
    assert config.rollout.dynamic_sampling is False
    keep_settings(path, config, free=YOUNGER)
    assert "dynamic_sampling" in tomllib.loads(path.read_text())["rollout"]
    assert read_run_config(old_run) == config
    keep_settings(path, config, free=())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dynamic_sampling": True}, "rollout.dynamic_sampling was False and is True"),
        ({"arms": (SOLO,)}, "rollout.arms was null and is "),
    ],
)
def test_a_run_of_an_earlier_version_refuses_other_settings(
    change: dict[str, object], named: str, old_run: Path
) -> None:
    config = read_run_config(old_run)
    changed = config.model_copy(update={"rollout": config.rollout.model_copy(update=change)})
    with pytest.raises(UsageError, match=named):
        keep_settings(old_run / CONFIG_FILE, changed, free=YOUNGER)


@pytest.mark.parametrize("config", [TrainConfig(), SFTRunConfig(), CollectConfig()])
def test_the_eight_arms_are_stored_as_they_were_before(config: BaseModel, tmp_path: Path) -> None:
    stored = as_toml(config)
    assert "arms" not in stored
    assert type(config).model_validate(tomllib.loads(stored)) == config
    keep_settings(tmp_path / CONFIG_FILE, config, free=())
    keep_settings(tmp_path / CONFIG_FILE, config, free=())


def test_custom_arms_are_stored_and_read_back(tmp_path: Path) -> None:
    config = TrainConfig(rollout=RolloutConfig(arms=(SOLO,)))
    keep_settings(tmp_path / CONFIG_FILE, config, free=())
    assert read_run_config(tmp_path).rollout.arms == (SOLO,)
    keep_settings(tmp_path / CONFIG_FILE, config, free=())
    with pytest.raises(UsageError, match="and is null"):
        keep_settings(tmp_path / CONFIG_FILE, TrainConfig(), free=())
