"""Reads a starting adapter's configuration: refuses what PPO cannot train, and takes the policy's shape from it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from inference_server.wire.adapters.adapter_config import (
    AdapterConfig,
    AdapterConfigError,
    module_and_side,
    parsed_config,
    read_config,
)
from inference_server.wire.schemas import ADAPTER_CONFIG_FILE
from trainer.config.policy import PolicyConfig
from trainer.config.safe_text import shortened
from trainer.errors import UsageError
from trainer.io.run_layout import why_no_adapter
from trainer.model.base_files import one_line


def shaped_as_adapter(policy: PolicyConfig) -> PolicyConfig:
    """The policy with the rank and the modules of its starting adapter, if it has one.

    Raises:
        UsageError: See `require_adapter`.
    """
    if policy.adapter is None:
        return policy
    found = _read_adapter_config(policy.adapter, f"policy.adapter {policy.adapter}")
    targets = found.target_modules
    names = (targets,) if isinstance(targets, str) else targets
    return policy.model_copy(update={"lora_rank": found.r, "target_modules": names})


def require_adapter(folder: Path) -> None:
    """Refuse a starting adapter that, by its configuration, PPO cannot train or the server cannot serve.

    Raises:
        UsageError: It is not a folder with an adapter, has dropout, or is not the kind of LoRA that the server serves.
    """
    _read_adapter_config(folder, f"policy.adapter {folder}")


def require_tensors_as_configured(folder: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse tensors that a starting adapter's configuration excludes or does not name, or whose rank differs from it.

    Args:
        folder: The adapter's folder.
        shapes: The shapes of the tensors in its weights file, by name; names that are not in PEFT's form are not
            checked here.

    Raises:
        UsageError: A tensor does not fit; the message names the module or the tensor.
    """
    where = f"policy.adapter {folder}"
    config = _read_adapter_config(folder, where)
    found = {name: split for name in shapes if (split := module_and_side(name)) is not None}
    with _naming_the_adapter(where):
        config.check_modules(sorted({module for module, _ in found.values()}), layers=())
    for name, (_, side) in found.items():
        # Checked before PEFT allocates tensors of the configured rank, which may be huge.
        if side == "A" and tuple(shapes[name][:1]) != (config.r,):
            raise UsageError(
                f"{where}: r is {config.r}, but {name} has shape {tuple(shapes[name])}"
            )


def _read_adapter_config(folder: Path, where: str) -> AdapterConfig:
    path = folder / ADAPTER_CONFIG_FILE
    if not os.path.isfile(path):
        raise UsageError(f"{where}: {why_no_adapter(folder)}")
    with _naming_the_adapter(where):
        content = path.read_bytes()
        config, dropout = read_config(content), parsed_config(content).get("lora_dropout")
    if dropout:
        raise UsageError(
            f"{where}: lora_dropout is {dropout}; "
            "PPO needs 0, or the trainer's logprobs differ from the server's"
        )
    return config


@contextmanager
def _naming_the_adapter(where: str) -> Iterator[None]:
    try:
        yield
    except AdapterConfigError as error:
        reason = error.reason
        if error.field is not None:
            reason = f"{error.field} is {shortened(repr(error.value))}: {reason}"
        raise UsageError(f"{where}: {ADAPTER_CONFIG_FILE}: {reason}") from None
    except OSError as error:
        raise UsageError(f"{where}: {ADAPTER_CONFIG_FILE}: {one_line(error)}") from None
