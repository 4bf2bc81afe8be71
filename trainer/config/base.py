"""What every section of the configuration, and every command's, has in common."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, Field

from inference_server.wire.settings_model import SettingsModel

Device = Literal["auto", "cpu", "cuda"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Of a generator, PyTorch's or the server's."""
MAX_THREADS = 4096
"""More CPU threads than this are a mistake, and PyTorch takes no number of them beyond 32 bits."""


class Section(SettingsModel):
    """A section of the configuration: unknown keys are errors."""

    meant_before: ClassVar[Mapping[str, object]] = {}
    """Values of keys that are missing in settings kept from before the keys existed, where those are not
    the defaults of today. Work begun then goes on with them: `trainer.io.kept_settings.as_begun`."""

    defaults_before: ClassVar[Mapping[str, object]] = {}
    """Earlier defaults of keys that have another today: kept settings hold them though nobody chose them."""

    @classmethod
    def read_kept(cls, kept: Mapping[str, Any]) -> Self:
        """Settings that an earlier start has kept, with what they meant then.

        Raises:
            ValidationError: They are of another type, or of a version that this one cannot read.
        """
        return cls.model_validate(cls.as_meant(kept) if isinstance(kept, Mapping) else kept)

    @classmethod
    def as_meant(cls, kept: Mapping[str, Any]) -> dict[str, Any]:
        """Kept settings with the keys that are missing and have another default today, without earlier defaults."""
        before = cls.defaults_before
        found = {
            **cls.meant_before,
            **{k: v for k, v in kept.items() if k not in before or v != before[k]},
        }
        for name, inner in sections_of(cls):
            if isinstance(table := found.get(name, {}), Mapping):
                found[name] = inner.as_meant(table)
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
    """Own keys that take the value of another section's key where they are not given: name of the own
    key → ``section.key``."""
