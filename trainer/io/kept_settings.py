"""Stores the settings that a run or other work was begun with beside it, so that it resumes with the same settings."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from inference_server.wire.json_and_toml import parse_toml
from inference_server.wire.settings.model import NULL
from trainer.config.base import Section, sections_of
from trainer.config.train import TrainConfig
from trainer.errors import UsageError
from trainer.io.change_text import change_text
from trainer.io.durable import write_file
from trainer.io.paths import is_same_path, read_plain

CONFIG_FILE = "config.toml"

_COMMANDS = {"rollouts": "train-offline", "sft": "sft", "ppo": "train"}
"""Keys of kept settings to commands: the first of these keys that the settings have says which command wrote them."""

_ADAPTER = "policy.adapter"
_SHOWN = 8
"""Most changed keys in a message."""

_Config = TypeVar("_Config", bound=Section)


def settings_beside(rollouts: Path) -> Path:
    """Where `collect` keeps the settings of a file of rollouts."""
    return rollouts.parent / f"{rollouts.name}.toml"


def as_toml(config: BaseModel) -> str:
    """A configuration as a TOML file that ``--config`` reads, without the API key."""
    return tomli_w.dumps(_plain(config))


def keep_settings(path: Path, config: BaseModel, *, free: Collection[str]) -> None:
    """Compare the settings with the stored ones, if there are any, and store them.

    A key whose absence meant a value of its own when the file was written is not added to the file.

    Args:
        path: The file; its folder is created if it is missing.
        config: The settings now.
        free: Sections and keys that may change between a start and the next.

    Raises:
        UsageError: See `require_as_kept`.
    """
    plain = _plain(config)
    if path.exists():
        require_as_kept(path, config, free=free)
        for name, key, _ in _lacking(type(config), kept_tables(path)):
            plain[name].pop(key, None)
    write_file(path, tomli_w.dumps(plain).encode())


def require_as_kept(path: Path, config: BaseModel, *, free: Collection[str]) -> None:
    """Compare the settings with the stored ones; nothing is written.

    A key that the stored file lacks has its default, or the value that its absence meant when the file was written.

    Args:
        path: The stored file.
        config: The settings now.
        free: Sections and keys that may change between a start and the next.

    Raises:
        UsageError: Other keys have changed; names them.
    """
    stored = kept_tables(path)
    written, now = flat_settings(stored), flat_settings(_plain(config))
    # If this version cannot read the file as a whole, each missing key still has its default.
    before = _as_read(stored, config) or {**(_as_read({}, config) or {}), **written}
    changed = [
        change_text(key, before.get(key, NULL), now.get(key, NULL))
        for key in sorted(before.keys() | now.keys())
        # Earlier versions left out null, even where it is not the default.
        if now.get(key, NULL) not in (before.get(key, NULL), written.get(key, NULL))
        # A run that has begun has a copy of the adapter, so its path may be written in another way; another path to
        # anything else could lead to other content.
        and not (key == _ADAPTER and is_same_path(before.get(key), now.get(key)))
        and not any(key == each or key.startswith(f"{each}.") for each in free)
    ]
    if changed:
        more = f"; and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        # The settings of a file of rollouts are beside it and have its name.
        is_folder = path.name == CONFIG_FILE
        begun = path.parent if is_folder else path.with_name(path.name.removesuffix(".toml"))
        raise UsageError(
            f"{begun} was begun with other settings: {'; '.join(changed[:_SHOWN])}{more}. "
            f"Resume with those of {path}, or choose another {'folder' if is_folder else 'output'}"
        )


def as_begun(path: Path, config: _Config, say: Callable[[str], None]) -> _Config:
    """The settings to go on with if the work was begun when some keys did not exist or had other defaults.

    A key that the stored file lacks takes its value of `Section.past_meanings`. A key for which it has an earlier
    default keeps this, if it still means something. Neither holds if a value other than today's default is given for
    the key now; `keep_settings` then refuses that value.

    Args:
        path: The stored file; if there is none, the work is new.
        config: The settings now.
        say: Gets a line with the keys that are set back.

    Raises:
        UsageError: The stored file is damaged.
    """
    if not path.exists():
        return config
    taken_back: list[str] = []
    stored = kept_tables(path)
    for name, key, value in (*_lacking(type(config), stored), *_of_before(type(config), stored)):
        section = getattr(config, name)
        if getattr(section, key) == type(section).model_fields[key].default != value:
            changed = section.model_copy(update={key: value})
            config = config.model_copy(update={name: changed})
            taken_back.append(f"{name}.{key} = {NULL if value is None else value}")
    if taken_back:
        say(
            f"{path.parent} was begun by an earlier version and keeps its settings: "
            f"{', '.join(taken_back)}"
        )
    return config


def _lacking(kind: type[BaseModel], stored: Mapping[str, Any]) -> Iterator[tuple[str, str, object]]:
    """Section, key and value of those keys in a configuration's `Section.past_meanings` that a file lacks."""
    for name, inner in sections_of(kind):
        for key, value in inner.past_meanings.items():
            if key not in table_of(stored, name):
                yield name, key, value


def _of_before(kind: type[Section], stored: Mapping[str, Any]) -> Iterator[tuple[str, str, object]]:
    """Section, key and value of those `Section.past_defaults` that a file holds and that still mean something."""
    meant = kind.with_past_meaning(stored)
    for name, inner in sections_of(kind):
        table = table_of(meant, name)
        for key, value in inner.past_defaults.items():
            if table.get(key) == value:
                with suppress(ValidationError):
                    yield name, key, getattr(inner.model_validate(table), key)


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


def is_as_kept(path: Path) -> bool:
    """Whether a file is exactly as `keep_settings` writes it, without somebody's own comments, order or layout."""
    try:
        return read_plain(path) == tomli_w.dumps(kept_tables(path)).encode()
    except UsageError:
        return False


def command_of(kept: Mapping[str, Any]) -> str | None:
    """The command whose settings these are; None if no key shows it."""
    return next((command for key, command in _COMMANDS.items() if key in kept), None)


def table_of(kept: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table of kept settings; empty if it is missing or not a table."""
    found = kept.get(name)
    return found if isinstance(found, Mapping) else {}


def _as_read(stored: Mapping[str, Any], config: BaseModel) -> dict[str, Any] | None:
    """The stored settings as the configuration's type reads them; None if it cannot read them."""
    try:
        kind = type(config)
        read = kind.read_kept if issubclass(kind, Section) else kind.model_validate
        return flat_settings(_plain(read(stored)))
    except ValidationError:
        return None


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
    path = folder / CONFIG_FILE
    try:
        tables = kept_tables(path)
        if (command := command_of(tables)) not in (None, "train"):
            raise UsageError(
                f"{folder} was written by `{command}`, which has no journal of rollouts: there is nothing to replay. "
                f"Run `{command}` with other settings in another folder to see what they change"
            )
        return TrainConfig.read_kept(tables)
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no run: there is no {CONFIG_FILE} in it") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
