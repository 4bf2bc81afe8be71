"""The settings that a piece of work was begun with, kept beside it so that it goes on with the same."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel

from trainer.errors import UsageError
from trainer.io.durable import write_file

CONFIG_FILE = "config.toml"


def as_toml(config: BaseModel) -> str:
    """A configuration as a file that ``--config`` reads; without the API key."""
    return tomli_w.dumps(_plain(config))


def keep_settings(path: Path, config: BaseModel, *, free: Collection[str]) -> None:
    """Write the settings, or compare them with those that are there.

    Args:
        path: The file; its folder is made where it is missing.
        config: Of the work.
        free: Sections and keys that may change while the work goes on.

    Raises:
        UsageError: Others have changed; names them.
    """
    if path.exists():
        try:
            stored = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {error}") from None
        before, now = _flat(stored), _flat(_plain(config))
        changed = [
            f"{key} was {before.get(key, 'null')} and is {now.get(key, 'null')}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
            and not any(key == each or key.startswith(f"{each}.") for each in free)
        ]
        if changed:
            raise UsageError(
                f"{path.parent} holds something begun with other settings: {'; '.join(changed)}. "
                f"Go on with those of {path}, or choose another place"
            )
    write_file(path, as_toml(config).encode())


def training_source(adapter: Path) -> str | None:
    """What the configuration of SFT or of a run says that its adapter was trained on, if it lies there."""
    for path in (adapter / CONFIG_FILE, adapter.parent.parent / CONFIG_FILE):
        try:
            source = tomllib.loads(path.read_text(encoding="utf-8"))["data"]["source"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return source if isinstance(source, str) else None
    return None


def _plain(config: BaseModel) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True, exclude={"server": {"api_key"}})


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found
