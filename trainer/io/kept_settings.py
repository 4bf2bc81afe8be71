"""The settings that a run or another piece of work was begun with, stored beside it: it resumes with the same."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from inference_server.wire.prompt_options import PromptFormat
from inference_server.wire.settings_model import NULL
from trainer.config.base import Section
from trainer.errors import UsageError
from trainer.io.durable import write_file

CONFIG_FILE = "config.toml"


def as_toml(config: BaseModel) -> str:
    """A configuration as a TOML file that ``--config`` reads, without the API key."""
    return tomli_w.dumps(_plain(config))


def keep_settings(path: Path, config: BaseModel, *, free: Collection[str]) -> None:
    """Compare the settings with the stored ones, if there are any, and store them.

    A key that the stored file lacks has its default, or what its lack meant when the file was written.

    Args:
        path: The file; its folder is made where it is missing.
        config: The settings now.
        free: Sections and keys that may change between a start and the next.

    Raises:
        UsageError: Other keys have changed; names them.
    """
    if path.exists():
        try:
            stored = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {error}") from None
        written, now = _flat(stored), _flat(_plain(config))
        before = _as_read(stored, config) or written
        changed = [
            f"{key} was {before.get(key, NULL)} and is {now.get(key, NULL)}"
            for key in sorted(before.keys() | now.keys())
            # Earlier versions left out null, even where it is not the default.
            if now.get(key, NULL) not in (before.get(key, NULL), written.get(key, NULL))
            and not any(key == each or key.startswith(f"{each}.") for each in free)
        ]
        if changed:
            raise UsageError(
                f"{path.parent} was begun with other settings: {'; '.join(changed)}. "
                f"Resume with those of {path}, or choose another folder"
            )
    write_file(path, as_toml(config).encode())


def kept_prompt_format(path: Path) -> PromptFormat | None:
    """The prompt format of kept settings, plain where they are of before there was another; None without any."""
    try:
        kept = tomllib.loads(path.read_text(encoding="utf-8"))
        found = kept.get("prompt_format") or kept.get("rollout", {}).get("prompt_format")
    except (OSError, ValueError, AttributeError):
        return None
    return "chat" if found == "chat" else "plain"


def training_source(adapter: Path) -> str | None:
    """The data.source of the SFT or run that an adapter folder belongs to; None where nothing says."""
    for path in (adapter / CONFIG_FILE, adapter.parent.parent / CONFIG_FILE):
        try:
            source = tomllib.loads(path.read_text(encoding="utf-8"))["data"]["source"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return source if isinstance(source, str) else None
    return None


def _as_read(stored: Mapping[str, Any], config: BaseModel) -> dict[str, Any] | None:
    """The stored settings as the configuration's type reads them; None where it cannot."""
    try:
        kind = type(config)
        read = kind.read_kept if issubclass(kind, Section) else kind.model_validate
        return _flat(_plain(read(stored)))
    except ValidationError:
        return None


def _plain(config: BaseModel) -> dict[str, Any]:
    """Values that TOML knows; None is left out, or ``null`` where the default is another value."""
    found = config.model_dump(mode="json", exclude_none=True, exclude={"server": {"api_key"}})
    for name, section in config:
        if isinstance(section, BaseModel) and name in found:
            found[name] |= {
                key: NULL
                for key, field in type(section).model_fields.items()
                if getattr(section, key) is None and field.default not in (None, PydanticUndefined)
            }
    return found


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values."""
    found: dict[str, Any] = {}
    for key, value in section.items():
        found |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found
