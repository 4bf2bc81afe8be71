"""The configuration of a command, from flags, environment and a TOML file."""

import sys
from typing import NoReturn, TypeVar

from inference_server.wire.flags.source import LISTS
from inference_server.wire.settings.errors import SettingsError, known_keys
from inference_server.wire.settings.serve import ServeConfig
from inference_server.wire.settings.sources import Program
from inference_server.wire.settings_loader import load_settings
from trainer.config.base import CommandConfig
from trainer.config.run import SHORT_FLAGS
from trainer.config.safe_text import safe_line
from trainer.config.sections import SECTIONS

_Config = TypeVar("_Config", bound=CommandConfig)

_DESCRIPTION = (
    "\n\n--config FILE reads the same keys from TOML; REGIME_W_SECTION__KEY from the environment.\n"
    f"{LISTS}"
)


def fail(command: str, *messages: object, exit_code: int = 2) -> NoReturn:
    """Print one line for each message on stderr and exit."""
    for message in messages:
        print(f"{command}: error: {safe_line(str(message))}", file=sys.stderr)  # noqa: T201
    sys.exit(exit_code)


def command_keys(kind: type[CommandConfig] = CommandConfig) -> set[str]:
    """The own keys of all commands, which are in no section."""
    below = (command_keys(command) for command in kind.__subclasses__())
    return set[str]().union((key for key in known_keys(kind) if "." not in key), *below) - {
        *SECTIONS
    }


def load_config(config: type[_Config], arguments: list[str], *, prog: str) -> _Config:
    """Read a configuration of the given type; see `inference_server.wire.settings_loader`.

    Prints help and exits 0 for ``--help``; exits 2 with one line for each mistake.
    """
    program = Program(
        name=prog,
        description=_DESCRIPTION,
        sections=SECTIONS,
        own_section=config.own_section,
        inherited=config.inherited,
        short_flags=SHORT_FLAGS,
        other_keys={*known_keys(ServeConfig), *command_keys()},
    )
    try:
        return load_settings(config, arguments, program)[0]
    except SettingsError as error:
        fail(prog, *error.lines)
