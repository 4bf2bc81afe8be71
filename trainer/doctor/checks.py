"""What the doctor is told."""

from typing import Annotated

from pydantic import Field

from trainer.config.sections import Section, TrainConfig


class ServeConfig(Section):
    """Flags of the server on which its memory depends."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.45
    """Its share of the card; the trainer has the rest."""
    max_model_len: Annotated[int, Field(ge=1)] = 4096
    """Longest prompt and completion together, in tokens."""
    max_lora_rank: Annotated[int, Field(ge=1)] = 16
    """Largest rank of an adapter."""
    max_loaded_versions: Annotated[int, Field(ge=2)] = 4
    """Adapter versions that it holds at a time; each has a slot."""


class DoctorConfig(TrainConfig):
    """Say whether a run of this configuration can start here; exit code 1 where it cannot."""

    serve: ServeConfig = ServeConfig()
    ask_server: bool = True
    """Ask the server too; before it is started there is none."""
    card_gib: Annotated[float, Field(gt=0)] | None = None
    """Plan for a GPU of so many GiB instead of what is here."""
