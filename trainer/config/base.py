"""The base classes of the configuration's sections and of the commands' configurations."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field

from inference_server.wire.settings.model import SettingsModel

Device = Literal["auto", "cpu", "cuda"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Seed of a random generator, PyTorch's or the server's."""
MAX_THREADS = 4096
"""Most CPU threads that are accepted. More are surely a mistake, and PyTorch takes no number beyond 32 bits."""


class Section(SettingsModel):
    """A section of the configuration: unknown keys are errors."""

    past_meanings: ClassVar[Mapping[str, object]] = {}
    """For keys that older kept settings lack: the value that their absence means, where this is not today's
    default. Work that was begun with such settings goes on with it: `trainer.io.kept_settings.as_begun`."""

    past_defaults: ClassVar[Mapping[str, object]] = {}
    """Earlier defaults of keys whose default has changed: kept settings hold them although nobody chose them."""

    @classmethod
    def read_kept(cls, kept: Mapping[str, Any]) -> Self:
        """Read settings that an earlier start has kept, with the meaning that they had then.

        Raises:
            ValidationError: They are of another type, or of a version whose settings this one cannot read.
        """
        return cls.model_validate(
            cls.with_past_meaning(kept) if isinstance(kept, Mapping) else kept
        )

    @classmethod
    def with_past_meaning(cls, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Kept settings with the missing keys of ``past_meanings`` added and values of ``past_defaults`` removed."""
        before = cls.past_defaults
        found = {
            **cls.past_meanings,
            **{k: v for k, v in kept.items() if k not in before or v != before[k]},
        }
        for name, inner in sections_of(cls):
            if isinstance(table := found.get(name, {}), Mapping):
                found[name] = inner.with_past_meaning(table)
        return found


def sections_of(kind: type[BaseModel]) -> Iterator[tuple[str, type[Section]]]:
    """The sections of a configuration, by name."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield name, field.annotation


class CommandConfig(Section):
    """Everything one command reads: sections that it shares with others, and keys of its own.

    Its own keys are flags without a section (``--output``). In a TOML file they stand at the top, or
    in the table ``own_section``, so that one file can hold those of several commands.
    """

    own_section: ClassVar[str | None] = None
    """Name of the table for the command's own keys."""
    inherited: ClassVar[Mapping[str, str]] = {}
    """Own keys that take the value of another section's key if they are not given: name of the own
    key → ``section.key``."""
