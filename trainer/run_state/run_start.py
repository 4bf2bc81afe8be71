"""Prepares a process for a run, whether the run is new or has begun."""

from collections.abc import Callable
from typing import TypeVar

import torch

from inference_server.wire.prompt_options import PromptFormat
from trainer.config.sections import OfflineRunConfig, TrainConfig
from trainer.run_state.run_folder import require_whole_run, with_kept_dtype, with_prompt_format

_Config = TypeVar("_Config", TrainConfig, OfflineRunConfig)


def prepared(config: _Config, prompt_format: Callable[[_Config], PromptFormat]) -> _Config:
    """The configuration with which a run begins or continues; this process gets its threads and its seed.

    Args:
        config: The configuration as it was given.
        prompt_format: Returns what ``auto`` stands for in a new run.

    Returns:
        The configuration; ``policy.dtype`` is still ``auto`` in a new run.

    Raises:
        UsageError: ``run.folder`` cannot be written to or made, or a run there has lost its settings.
    """
    require_whole_run(config.run.folder)
    if config.run.num_threads is not None:
        torch.set_num_threads(config.run.num_threads)
    torch.manual_seed(config.run.seed)
    return with_kept_dtype(with_prompt_format(config, lambda: prompt_format(config)))
