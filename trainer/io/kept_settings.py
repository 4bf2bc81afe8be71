"""Stores the settings that a run or other work was begun with beside it, so that it resumes with the same settings."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from inference_server.wire.json_and_toml import parse_toml
from inference_server.wire.settings.errors import Source, error_lines, known_keys
from inference_server.wire.settings.model import NULL
from trainer.config.asking import CollectConfig
from trainer.config.sft import SFTRunConfig
from trainer.config.train import OfflineRunConfig, TrainConfig
from trainer.errors import UsageError
from trainer.io.change_text import change_text
from trainer.io.durable import write_file
from trainer.io.paths import is_same_path, read_plain
from trainer.io.run_layout import has_begun

CONFIG_FILE = "config.toml"

KeptConfig = TrainConfig | OfflineRunConfig | SFTRunConfig | CollectConfig
"""The configurations that commands keep."""

_COMMANDS = {"rollouts": "train-offline", "sft": "sft", "ppo": "train", "rollout": "collect"}
"""Keys of kept settings to commands: the first of these keys that the settings have says which command wrote them."""

_KINDS: Mapping[str, type[KeptConfig]] = {
    "train-offline": OfflineRunConfig,
    "sft": SFTRunConfig,
    "train": TrainConfig,
    "collect": CollectConfig,
}

_ADAPTER = "policy.adapter"
_SHOWN = 8
"""Most changed keys in a message."""


def settings_beside(rollouts: Path) -> Path:
    """Where `collect` keeps the settings of a file of rollouts."""
    return rollouts.parent / f"{rollouts.name}.toml"


def as_toml(config: BaseModel) -> str:
    """A configuration as a TOML file that ``--config`` reads, without the API key."""
    return tomli_w.dumps(_plain(config))


def keep_settings(path: Path, config: BaseModel, *, free: Collection[str]) -> None:
    """Compare the settings with the stored ones, if there are any, and store them.

    Args:
        path: The file; its folder is created if it is missing.
        config: The settings now.
        free: Sections and keys that may change between a start and the next.

    Raises:
        UsageError: See `require_as_kept`.
    """
    if path.exists():
        require_as_kept(path, config, free=free)
    write_file(path, as_toml(config).encode())


def require_as_kept(path: Path, config: BaseModel, *, free: Collection[str]) -> None:
    """Compare the settings with the stored ones; nothing is written.

    A key that the stored file lacks is newer than the file, and has its default.

    Args:
        path: The stored file.
        config: The settings now.
        free: Sections and keys that may change between a start and the next.

    Raises:
        UsageError: Another command wrote the file, other keys have changed, or the file cannot be read; names them.
    """
    kept = read_kept(path)
    # The settings of a file of rollouts are beside it and have its name.
    is_folder = path.name == CONFIG_FILE
    begun = path.parent if is_folder else path.with_name(path.name.removesuffix(".toml"))
    anew = f"choose another {'folder' if is_folder else 'output'}"
    if not isinstance(config, type(kept)):
        raise UsageError(
            f"{begun} was begun by `{_written_by(kept)}`, which goes on with it; {anew}"
        )
    before, now = flat_settings(_plain(kept)), flat_settings(_plain(config))
    changed = [
        change_text(key, before.get(key, NULL), now.get(key, NULL))
        for key in sorted(before.keys() | now.keys())
        if now.get(key, NULL) != before.get(key, NULL)
        # A run that has begun has a copy of the adapter, so its path may be written in another way; another path to
        # anything else could lead to other content.
        and not (key == _ADAPTER and is_same_path(before.get(key), now.get(key)))
        and not any(key == each or key.startswith(f"{each}.") for each in free)
    ]
    if changed:
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise UsageError(
            f"{begun} was begun with other settings: {'; '.join(changed[:_SHOWN])}{more}. "
            f"Resume with those of {path}, or {anew}"
        )


def read_kept(path: Path) -> KeptConfig:
    """Kept settings, as the command that wrote them reads them; a key that the file lacks has its default.

    Raises:
        FileNotFoundError: There is no such file.
        UsageError: The file is damaged, or no command that keeps settings can read it; names it and the first such key.
    """
    tables = kept_tables(path)
    command = command_of(tables)
    if command is None:
        raise UsageError(f"{path}: not the settings that a command has kept")
    kind = _KINDS[command]
    try:
        return kind.model_validate(tables)
    except ValidationError as error:
        first, *_ = error_lines(error, [Source(values=tables)], set(known_keys(kind)))
        raise UsageError(f"{path}: {first}") from None


def kept_tables(path: Path) -> dict[str, Any]:
    """Kept settings as they stand in their file.

    Raises:
        FileNotFoundError: There is no such file.
        UsageError: The file is damaged; names it.
    """
    try:
        return parse_toml(read_plain(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def lost_settings(path: Path, flaw: str = "missing, and the run has begun") -> UsageError:
    """The error for a run that has begun and no longer has its settings, which it cannot go on or be judged without."""
    return UsageError(f"{path}: {flaw}; restore the file from a copy")


def is_as_kept(path: Path) -> bool:
    """Whether a file is exactly as `keep_settings` writes it, without somebody's own comments, order or layout."""
    try:
        return read_plain(path) == tomli_w.dumps(kept_tables(path)).encode()
    except UsageError:
        return False


def command_of(kept: Mapping[str, Any]) -> str | None:
    """The command whose settings these are; None if no key shows it."""
    return next(
        (
            command
            for key, command in _COMMANDS.items()
            if isinstance(kept.get(key), str if key == "rollouts" else dict)
        ),
        None,
    )


def command_in(folder: Path) -> str | None:
    """The command whose settings a folder keeps; None if it keeps none, or no key shows it.

    Raises:
        UsageError: The file is damaged; names it.
    """
    try:
        return command_of(kept_tables(folder / CONFIG_FILE))
    except FileNotFoundError:
        return None


def _written_by(kept: KeptConfig) -> str:
    """The command whose settings these are, once they are read."""
    return next(name for name, kind in _KINDS.items() if isinstance(kept, kind))


def _plain(config: BaseModel) -> dict[str, Any]:
    """A configuration in values that TOML knows; None is left out, or ``null`` if it is not the default."""
    found = config.model_dump(mode="json", exclude_none=True, exclude={"server": {"api_key"}})
    for name, section in config:
        if isinstance(section, BaseModel) and name in found:
            found[name] |= {
                key: NULL
                for key, field in type(section).model_fields.items()
                if getattr(section, key) is None and field.default not in (None, PydanticUndefined)
            }
    return found


def flat_settings(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one table of dotted keys to values."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= (
            flat_settings(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {prefix + key: value}
        )
    return found


def read_run_config(folder: Path) -> TrainConfig:
    """The configuration of a run.

    Raises:
        UsageError: There is no configuration, or another command or another version of this one wrote it.
    """
    try:
        kept = read_kept(folder / CONFIG_FILE)
    except FileNotFoundError:
        if has_begun(folder):
            raise lost_settings(folder / CONFIG_FILE) from None
        raise UsageError(f"{folder} holds no run: there is no {CONFIG_FILE} in it") from None
    if not isinstance(kept, TrainConfig):
        command = _written_by(kept)
        raise UsageError(
            f"{folder} was written by `{command}`, which has no journal of rollouts: there is nothing to replay. "
            f"Run `{command}` with other settings in another folder to see what they change"
        )
    return kept
