"""Checks the base model's files, and whether the disk has room for the run's own."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from inference_server.wire.base_files import base_folder, fingerprint, why_not_on_hub
from trainer.config.sections import DoctorConfig
from trainer.doctor.memory_plan import PROMPT_TOKENS
from trainer.doctor.model_shape import ModelShape
from trainer.doctor.results import CheckResult, bad, note, ok, size_text
from trainer.errors import UsageError
from trainer.io.run_layout import ADAPTERS_FOLDER, CHECKPOINTS_FOLDER, ROLLOUTS_FOLDER
from trainer.model.base_files import indexed_files, require_whole_weights

_WEIGHT_FILES = ("*.safetensors", "*.bin")
_REQUIRED_FILES = {
    "config.json": ("config.json",),
    "a tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
    "weights": _WEIGHT_FILES,
}
"""What a model's folder must hold, and the patterns of files of which one is enough."""

# Bytes in a file of rollouts: for a completion's names and scores; for the id of a prompt's token; and for a token of
# a completion, with its id, its logprob and its text, which is written twice.
_COMPLETION_BYTES, _ID_BYTES, _TOKEN_BYTES = 500, 7, 27


def check_model_files(base_model: str) -> Iterator[CheckResult]:
    """Configuration, tokenizer and weights of the base model, in its folder or the Hub's cache."""
    folder = base_folder(base_model)
    if folder is None:
        text = f"{base_model} is neither a folder nor in the Hub's cache"
        if reason := why_not_on_hub(base_model):
            yield bad("model", f"{text}, and {reason}", "policy.base_model")
        else:
            yield note("model", f"{text}: the first start downloads it")
        return
    missing = [
        name
        for name, patterns in _REQUIRED_FILES.items()
        if not any(any(folder.glob(pattern)) for pattern in patterns)
    ]
    try:
        require_whole_weights(str(folder))
        missing += [name for name in indexed_files(str(folder)) if not (folder / name).is_file()]
    except UsageError as error:
        yield bad("model", str(error), "policy.base_model, or copy the model again")
        return
    if missing:
        text = f"{folder} lacks {', '.join(missing)}"
        yield bad("model", text, "policy.base_model, or copy the model again")
    else:
        size = sum(p.stat().st_size for pattern in _WEIGHT_FILES for p in folder.glob(pattern))
        text = f"{base_model}: {size_text(size)} of weights, fingerprint {fingerprint(folder)}"
        yield ok("model", text)


def check_disk(shape: ModelShape, config: DoctorConfig) -> Iterator[CheckResult]:
    """Whether there is room for checkpoints and adapters, without which the run ends, and for all steps' rollouts."""
    run = config.run
    folder = run.folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    adapter = config.policy.lora_rank * shape.adapter_parameters_per_rank * 4
    # A checkpoint holds policy, reference, critic and two moments of each trained adapter: 7. One
    # more checkpoint exists while it is written, and the first and the best stay.
    checkpoints = (run.num_checkpoints + 3) * 7 * adapter
    needed = checkpoints + (min(run.num_steps, run.num_adapters) + 2) * adapter
    rollouts = run.num_steps * _step_bytes(config)
    # A run that resumes has most of this already. What it has left to write is at least a checkpoint and an adapter.
    held = _size_below(folder / CHECKPOINTS_FOLDER) + _size_below(folder / ADAPTERS_FOLDER)
    needed = max(needed - held, 8 * adapter)
    rollouts = max(rollouts - _size_below(folder / ROLLOUTS_FOLDER), 0)
    text = (
        f"{size_text(free)} free in {existing}, {size_text(needed)}{' more' if held else ''} for checkpoints and "
        f"adapters, at most {size_text(rollouts)} for the rollouts of {run.num_steps:,} steps, which all stay"
    )
    if free < needed:
        yield bad("disk", text, "run.num_checkpoints, run.num_adapters, run.folder")
    elif free < needed + rollouts:
        yield note("disk", text, "run.num_steps, or a larger disk for run.folder")
    else:
        yield ok("disk", text)


def _size_below(folder: Path) -> int:
    """The bytes of all files below a folder; 0 if there is none. Files that a trainer at work removes are left out."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.lstat().st_size if path.is_file() else 0
    return size


def _step_bytes(config: DoctorConfig) -> int:
    """The size of a step's lines in ``rollouts/`` if all completions have the greatest length."""
    rollout = config.rollout
    num_completions = rollout.questions_per_step * len(rollout.arms) * rollout.samples_per_arm
    one = _COMPLETION_BYTES + _ID_BYTES * PROMPT_TOKENS + _TOKEN_BYTES * rollout.max_tokens
    return num_completions * one
