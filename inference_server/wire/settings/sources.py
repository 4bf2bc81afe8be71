"""What may be given to a program; reads environment and file into plain mappings.

Flags are read in `inference_server.wire.flags.reading`.
"""

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from inspect import cleandoc
from pathlib import Path
from typing import Any

from pydantic import BaseModel, create_model
from pydantic_settings import BaseSettings, EnvSettingsSource
from pydantic_settings import SettingsError as SourceError

from inference_server.wire.json_and_toml import JsonFlaw, check_flaws, parse_toml
from inference_server.wire.settings.errors import (
    VARIABLE_PREFIX,
    SettingsError,
    Source,
    not_json_message,
)
from inference_server.wire.settings.model import takes_json

_NESTED = "__"

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Program:
    """What may be given to a program, and how."""

    name: str
    """As help shows it."""
    description: str = ""
    """Put after the docstring of the settings' type in help."""
    sections: Mapping[str, type[BaseModel]]
    """Every table that may stand in the configuration file, whichever program it is for."""
    own_section: str | None = None
    """The table for the program's own keys, which may also stand at the top of the file."""
    inherited: Mapping[str, str] = field(default_factory=dict)
    """Own keys that default to another table's key: own key → ``section.key``."""
    other_keys: Collection[str] = ()
    """Own keys of other programs, whose variables may be set here too."""
    short_flags: Mapping[str, str] = field(default_factory=dict)
    """Flags without a section, and the keys that they stand for."""
    kebab_case: bool = False
    """Whether help shows flags with ``-``; both spellings are read anyway."""
    not_flags: Collection[str] = ()
    """Fields that the command line cannot set."""
    allow_unknown_flags: bool = False
    """Return arguments that are not flags of the settings instead of refusing them."""


def config_flag(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file that ``--config`` names, by its path or as one of `presets`, and the other arguments."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path, action="append")
    try:
        found, rest = finder.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise SettingsError(str(error)) from None
    given, *others = found.config or [None]
    if any(other != given for other in others):
        raise SettingsError("--config: given twice with different values; leave one of them out")
    if given is not None and not given.is_file():
        given = presets().get(str(given), given)
    return given, rest


def presets() -> dict[str, Path]:
    """The configurations that come with the package, by name: in a clone those of ``deploy/configs``."""
    package = Path(str(resources.files("inference_server")))
    installed = package / "presets"
    folder = installed if installed.is_dir() else package.parent / "deploy/configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def program_name(module: str, script: str) -> str:
    """How a program was started: by its console script, or as a module."""
    return script if Path(sys.argv[0]).name == script else f"python -m {module}"


def read_toml(path: Path) -> Values:
    """The configuration file."""
    try:
        return parse_toml(path.read_bytes())
    except OSError as error:
        names = "" if path.suffix or len(path.parts) > 1 else f"; or one of {', '.join(presets())}"
        raise SettingsError(f"--config {path}: {error.strerror}{names}") from None
    except ValueError as error:
        raise SettingsError(f"--config {path}: {error}") from None


def read_environment(model: type[BaseModel], *, only_nested: bool = False) -> Values:
    """The values that variables give to a model's fields; empty variables count as not set.

    Args:
        model: The settings.
        only_nested: Read only variables such as ``REGIME_W_SECTION__KEY``.
    """
    # Without a prefix of its own: pydantic-settings would read a key with an alias from a variable without the prefix.
    source = EnvSettingsSource(
        as_settings(model), env_prefix="", env_nested_delimiter=_NESTED, env_ignore_empty=True
    )
    prefix = VARIABLE_PREFIX.lower()
    variables = {
        name.removeprefix(prefix): value
        for name, value in source.env_vars.items()
        if name.startswith(prefix) and (_NESTED in name or not only_nested)
    }
    source.env_vars = variables
    for name, value in variables.items():
        check_json(model, name.replace(_NESTED, "."), value or "", kind="variable")
    try:
        return source()
    except (SourceError, RecursionError):
        # The error names only the section; the variable at fault is the one that also fails alone.
        for name, value in variables.items():
            source.env_vars = {name: value}
            try:
                source()
            except (SourceError, RecursionError):
                key = name.replace(_NESTED, ".")
                raise SettingsError(
                    Source(values={}, kind="variable").says(key, not_json_message(key, value or ""))
                ) from None
        raise


def variables() -> list[str]:
    """Keys of all variables that begin with ``REGIME_W_``; ``REGIME_W_SECTION__KEY`` as ``section.key``."""
    names = (name.upper() for name, value in os.environ.items() if value)
    return [
        name.removeprefix(VARIABLE_PREFIX).lower().replace(_NESTED, ".")
        for name in names
        if name.startswith(VARIABLE_PREFIX)
    ]


def check_json(
    model: type[BaseModel], key: str, text: str, *, kind: str, kebab_case: bool = False
) -> None:
    """Refuse JSON that parsers read differently, if the key takes JSON: pydantic's sources take the last of two keys.

    Raises:
        SettingsError: Names the key.
    """
    if "{" not in text or not takes_json(model, key):
        return
    try:
        check_flaws(text)
    except JsonFlaw as error:
        source = Source(values={}, kind=kind, kebab_case=kebab_case)
        raise SettingsError(source.says(key, str(error))) from None


def as_settings(
    model: type[BaseModel], *, without: Collection[str] = (), doc: str = "", **more: Any
) -> type[BaseSettings]:
    """A type with a model's fields that pydantic-settings reads; it is never validated."""
    fields: Any = {
        name: (field.annotation, field)
        for name, field in model.model_fields.items()
        if name not in without
    }
    return create_model(
        model.__name__,
        __base__=BaseSettings,
        __doc__=f"{cleandoc(model.__doc__ or '')}{doc}",
        **fields,
        **more,
    )
