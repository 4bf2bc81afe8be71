"""What every section of the configuration, and every command's, has in common."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from inference_server.wire.settings_model import SettingsModel

Device = Literal["auto", "cpu", "cuda"]


class Section(SettingsModel):
    """A section of the configuration: unknown keys are errors."""


class CommandConfig(Section):
    """Everything one command reads: sections that it shares with others, and keys of its own.

    Its own keys are flags without a section (``--output``). In a TOML file they stand at the top, or
    in the table ``own_section``, so that one file can hold those of several commands.
    """

    own_section: ClassVar[str | None] = None
    """Name of the table for the command's own keys."""
    inherited: ClassVar[Mapping[str, str]] = {}
    """Own keys that take the value of another section's key where they are not given: name of the own
    key → ``section.key``."""
