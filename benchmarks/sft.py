"""The SFT adapter that the runs of a benchmark start from."""

from pathlib import Path

from benchmarks.learning.tasks import BUILT_IN, TASKS, Task
from trainer.config.sections import DataConfig, PolicyConfig, SFTConfig, SFTRunConfig


def sft_adapter(config: SFTRunConfig) -> Path:
    """The adapter in ``config.output``; it is trained if the folder has none."""
    if not (config.output / "adapter_config.json").is_file():
        from trainer.sft.training import run_sft

        run_sft(config, lambda step, num_steps, loss: None, lambda line: None)
    return config.output


def task_adapter(model: Path, folder: Path, task: Task = TASKS[BUILT_IN]) -> Path:
    """The adapter of a task's demonstrations in a folder; it is trained if the folder has none."""
    source = folder / "demonstrations.jsonl"
    if not source.is_file():
        task.write_demonstrations(source)
    return sft_adapter(
        SFTRunConfig(
            policy=PolicyConfig(base_model=str(model)),
            data=DataConfig(source=str(source)),
            sft=SFTConfig(
                num_examples=task.num_demonstrations, learning_rate=2e-3, num_evaluation_examples=0
            ),
            output=folder,
        )
    )
