"""The base class of the commands' configurations, and types that several sections share."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field

from inference_server.wire.settings.model import SettingsModel

Device = Literal["auto", "cpu", "cuda"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Seed of a random generator, PyTorch's or the server's."""
MAX_THREADS = 4096
"""Most CPU threads that are accepted. More are surely a mistake, and PyTorch takes no number beyond 32 bits."""


_Config = TypeVar("_Config", bound="CommandConfig")


class CommandConfig(SettingsModel):
    """Everything one command reads: sections that it shares with others, and keys of its own.

    Its own keys are flags without a section (``--output``). In a TOML file they stand at the top, or
    in the table ``own_section``, so that one file can hold those of several commands.
    """

    own_section: ClassVar[str | None] = None
    """Name of the table for the command's own keys."""
    inherited: ClassVar[Mapping[str, str]] = {}
    """Own keys that take the value of another section's key if they are not given: name of the own
    key → ``section.key``."""

    def part(self, kind: type[_Config]) -> _Config:
        """The sections and keys that another command's configuration has too."""
        return kind.model_validate({name: getattr(self, name) for name in kind.model_fields})
