"""The best evaluation of a run so far, whose checkpoint and adapter are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from inference_server.wire.schemas import adapter_name
from trainer.errors import CheckpointError
from trainer.io.durable import write_file
from trainer.io.paths import read_plain
from trainer.io.run_layout import ADAPTERS_FOLDER, CHECKPOINTS_FOLDER

_BEST_FILE = "best.json"
_REMOVE = "; remove it"


class Best(BaseModel):
    """``checkpoints/best.json``: the evaluated step with the highest accuracy so far."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    step: int = Field(ge=0, lt=2**63)
    """The evaluated step, whose checkpoint is kept."""
    version: int = Field(ge=0, lt=2**63)
    adapter: str
    """The version's folder, relative to the run's folder."""
    accuracy: float = Field(ge=0, le=1)
    num_questions: int = Field(ge=1, lt=2**63)

    @model_validator(mode="after")
    def _adapter_is_of_the_version(self) -> Self:
        if self.adapter != f"{ADAPTERS_FOLDER}/{adapter_name(self.version)}":
            raise ValueError(f"adapter is not the folder of version {self.version}")
        return self


def read_best(run_folder: Path) -> Best | None:
    """The best evaluation of a run; None if there was none yet.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = run_folder / CHECKPOINTS_FOLDER / _BEST_FILE
    try:
        return Best.model_validate_json(read_plain(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}{_REMOVE}") from None
    except ValidationError as error:
        raise CheckpointError(f"{path}: {error.errors()[0]['msg']}{_REMOVE}") from None


def skip_damaged_best(run_folder: Path, say: Callable[[str], None]) -> None:
    """Put a damaged ``checkpoints/best.json`` aside: the next evaluation is then the best so far.

    Args:
        run_folder: The run's folder.
        say: Gets a line if the file is damaged.
    """
    try:
        read_best(run_folder)
    except CheckpointError as error:
        path = run_folder / CHECKPOINTS_FOLDER / _BEST_FILE
        aside = path.with_name(path.name + ".damaged")
        path.rename(aside)
        say(
            f"{str(error).removesuffix(_REMOVE)}; it is now {aside.name}, and the next evaluation the best"
        )


def write_best(run_folder: Path, best: Best) -> None:
    """Replace ``checkpoints/best.json`` atomically."""
    text = best.model_dump_json(indent=2) + "\n"
    write_file(run_folder / CHECKPOINTS_FOLDER / _BEST_FILE, text.encode())
