"""Changes some of a run's settings, as ``replay --what_if`` says; this module does not load torch."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from inference_server.wire.settings.errors import suggestion
from trainer.config.sections import TrainConfig
from trainer.errors import UsageError

_SECTIONS = ("ppo", "reward")


def changed_config(config: TrainConfig, changes: Sequence[str]) -> TrainConfig:
    """Change settings of ``ppo`` and ``reward``.

    Args:
        config: The run's.
        changes: Each ``section.key=value``; the value ``null`` means None.

    Raises:
        UsageError: A key is unknown or a value is invalid.
    """
    values: dict[str, Any] = config.model_dump()
    for change in changes:
        key, mark, value = change.partition("=")
        section, _, name = key.partition(".")
        if not mark or section not in _SECTIONS or name not in values[section]:
            keys = {f"{section}.{name}" for section in _SECTIONS for name in values[section]}
            raise UsageError(
                f"--what_if {change!r}: expected ppo.KEY=VALUE or reward.KEY=VALUE with an existing KEY"
                f"{suggestion(key, keys)}"
            )
        values[section][name] = None if value == "null" else _listed(value)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "configuration"
        raise UsageError(f"--what_if {' '.join(changes)}: {key}: {first['msg']}") from None


def _listed(value: str) -> Any:
    """A value, as a list if it is written as one, such as ``["regime_w"]``."""
    with suppress(ValueError):
        if value.startswith("["):
            return from_json(value)
    return value
