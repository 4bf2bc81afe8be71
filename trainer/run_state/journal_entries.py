"""The lines of a run's ``journal.jsonl``: a step's, written before its update, and an adapter's, before its push.

Every line carries a checksum of its own, and a step's line also the digest of its rollouts.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from inference_server.wire.digests import sha256_of_bytes
from trainer.io.run_layout import ROLLOUTS_FOLDER, step_name
from trainer.rollouts.questions import PendingQuestions

_CHECK_HEX_DIGITS = 16
_PREFIX, _MIDDLE, _END = b'{"check":"', b'","entry":', b"}\n"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class JournaledStep(_Entry):
    """What a step's update needs besides its rollouts, and the run's state after it."""

    kind: Literal["step"] = "step"
    step: int
    version: int
    """The version that generated the rollouts: the proximal policy."""
    rollouts_sha256: str = ""
    """Digest of ``rollouts/step-….jsonl``."""
    learning_rate_scale: float
    num_threads: int
    """The trainer's number of threads; sums round differently with another number."""
    num_ranks: int
    """How many processes shared each mini-batch; sums round differently with another number."""
    cursor: int
    """The state of the questions, with the next two fields; see `QuestionState`."""
    pending: tuple[PendingQuestions, ...]
    solved: dict[str, bool]
    """For every question that was asked for the step, whether all its completions were right."""
    metrics: dict[str, float]
    """Metrics of the rollouts."""
    reward_sources: dict[str, str]
    """SHA-256 of the source file of each of ``reward.functions`` that gave the rewards; Regime W has none."""


class JournaledAdapter(_Entry):
    """A published version of the policy."""

    kind: Literal["adapter"] = "adapter"
    step: int
    """The step after which it was published; 0 is the start."""
    version: int
    sha256: str
    """Digest of its weights file."""
    dtype: str
    """The dtype to which its weights were rounded, e.g. ``float32``."""
    token_budget: int
    """The most tokens of the step's micro-batches, whose sums round differently with another number."""
    returned_to: int | None = None
    """The step to which the run went back (``run.return_to_best``) and whose policy this is; None if it did not."""


_ENTRY: TypeAdapter[JournaledStep | JournaledAdapter] = TypeAdapter(
    Annotated[JournaledStep | JournaledAdapter, Field(discriminator="kind")]
)


def rollouts_file(run_folder: Path, step: int) -> Path:
    """The file of a step's rollouts."""
    return run_folder / ROLLOUTS_FOLDER / f"{step_name(step)}.jsonl"


def to_line(entry: JournaledStep | JournaledAdapter) -> bytes:
    """An entry with its checksum."""
    body = entry.model_dump_json().encode()
    return _PREFIX + _check(body) + _MIDDLE + body + _END


def parse_line(line: bytes) -> JournaledStep | JournaledAdapter | None:
    """The entry of a line; None if the line is truncated or damaged."""
    check = slice(len(_PREFIX), len(_PREFIX) + _CHECK_HEX_DIGITS)
    body = line[check.stop + len(_MIDDLE) : -len(_END)]
    if line != _PREFIX + _check(body) + _MIDDLE + body + _END:
        return None
    try:
        return _ENTRY.validate_json(body)
    except ValidationError:
        return None


def _check(body: bytes) -> bytes:
    return sha256_of_bytes(body)[:_CHECK_HEX_DIGITS].encode()
