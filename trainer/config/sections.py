"""Every section and every command's configuration, to import from one place.

Loads neither torch nor vllm, so ``--help`` is quick.
"""

from collections.abc import Mapping

from pydantic import BaseModel

from inference_server.wire.settings.serve import ServeConfig
from trainer.config.asking import CollectConfig, DiffCommand, EvaluationConfig, SampleConfig
from trainer.config.base import CommandConfig, Device
from trainer.config.data import DataConfig
from trainer.config.policy import PolicyConfig
from trainer.config.ppo import (
    AdvantageEstimator,
    GroupEstimator,
    KLEstimator,
    LossReduction,
    PPOConfig,
)
from trainer.config.rollout import RewardSettings, RolloutConfig
from trainer.config.run import RunConfig
from trainer.config.server import ServerConfig
from trainer.config.sft import SFTConfig, SFTRunConfig
from trainer.config.tools import (
    DemoCommand,
    DequantizeCommand,
    DoctorConfig,
    ExportCommand,
    ReplayCommand,
    ReportCommand,
    Role,
    TextModelCommand,
    TinyModelCommand,
    WatchCommand,
)
from trainer.config.train import (
    OfflineConfig,
    OfflineRunConfig,
    TrainCommand,
    TrainConfig,
    TrainOfflineCommand,
)

__all__ = [
    "SECTIONS",
    "AdvantageEstimator",
    "CollectConfig",
    "CommandConfig",
    "DataConfig",
    "DemoCommand",
    "DequantizeCommand",
    "Device",
    "DiffCommand",
    "DoctorConfig",
    "EvaluationConfig",
    "ExportCommand",
    "GroupEstimator",
    "KLEstimator",
    "LossReduction",
    "OfflineConfig",
    "OfflineRunConfig",
    "PPOConfig",
    "PolicyConfig",
    "ReplayCommand",
    "ReportCommand",
    "RewardSettings",
    "Role",
    "RolloutConfig",
    "RunConfig",
    "SFTConfig",
    "SFTRunConfig",
    "SampleConfig",
    "ServeConfig",
    "ServerConfig",
    "TextModelCommand",
    "TinyModelCommand",
    "TrainCommand",
    "TrainConfig",
    "TrainOfflineCommand",
    "WatchCommand",
]

SECTIONS: Mapping[str, type[BaseModel]] = {
    "policy": PolicyConfig,
    "data": DataConfig,
    "server": ServerConfig,
    "serve": ServeConfig,
    "rollout": RolloutConfig,
    "reward": RewardSettings,
    "ppo": PPOConfig,
    "run": RunConfig,
    "sft": SFTConfig,
    "offline": OfflineConfig,
    "collect": CollectConfig,
    "eval": EvaluationConfig,
    "doctor": DoctorConfig,
}
"""Every table that may stand in a configuration file, whichever command or server reads it."""
