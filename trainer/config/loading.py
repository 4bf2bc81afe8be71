"""Where a command's configuration comes from: flags, then environment, then a TOML file.

``--section.key value`` beats ``REGIME_W_SECTION__KEY`` beats ``[section] key = value`` beats the
default. Unknown keys and bad values are errors that name the key.
"""

import argparse
import sys
import tomllib
from pathlib import Path
from typing import NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from trainer.config.stages import SECTIONS

_Config = TypeVar("_Config", bound=BaseModel)


def fail(command: str, message: object, *, exit_code: int = 2) -> NoReturn:
    """Say one line on stderr and exit."""
    print(f"{command}: error: {message}", file=sys.stderr)  # noqa: T201
    sys.exit(exit_code)


def load_config(config: type[_Config], arguments: list[str], *, prog: str) -> _Config:
    """Read a configuration of the given type; ``--config FILE`` names the TOML file.

    Sections of the file that are for other commands are passed over. Prints help and exits 0 for
    ``--help``; exits 2 with one line an error otherwise.
    """
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    try:
        found, rest = finder.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        fail(prog, error)
    try:
        file = {} if found.config is None else tomllib.loads(found.config.read_text())
    except OSError as error:
        fail(prog, f"--config {found.config}: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fail(prog, f"--config {found.config}: {error}")
    file = {key: file[key] for key in file if key in config.model_fields or key not in SECTIONS}

    class FromEverywhere(BaseSettings, config):  # type: ignore[misc, valid-type]
        __doc__ = (
            (config.__doc__ or "")
            + " --config FILE reads the same keys from TOML; REGIME_W_SECTION__KEY from the environment."
        )
        model_config = SettingsConfigDict(
            extra="forbid",
            env_prefix="REGIME_W_",
            env_nested_delimiter="__",
            cli_prog_name=prog,
            cli_kebab_case=False,
            cli_avoid_json=True,
            cli_implicit_flags=True,
            cli_hide_none_type=True,
            # Errors come back as exceptions, so that they are one line without the usage.
            cli_exit_on_error=False,
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=file)

    try:
        merged: BaseModel = CliApp.run(FromEverywhere, cli_args=rest)
        return config.model_validate(merged.model_dump())
    except ValidationError as error:
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "configuration"
            reason = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"]
            given = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
            print(f"{prog}: error: {key}: {reason}{given}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except SettingsError as error:
        fail(prog, error)
