"""Records which base model a run or an SFT trains on, beside its settings, and compares it with another one.

An adapter fits any base of its shapes, but means something only on the weights that it was trained on.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from inference_server.wire.base_files import known_fingerprint
from trainer.config.policy import PolicyConfig
from trainer.config.safe_text import safe_line, shortened
from trainer.errors import UsageError
from trainer.io.durable import write_file
from trainer.io.paths import read_plain
from trainer.io.run_layout import run_of

BASE_FILE = "base.json"
"""Name of the file that holds a `BaseRecord`."""


class BaseRecord(BaseModel):
    """A base model and what tells its weights from others; what is not known is None."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    base_model: str
    """A folder or a Hub id."""
    fingerprint: str | None
    """Of its files; see `inference_server.wire.base_files`."""
    quantization: str | None = None
    """``policy.quantization``: weights in 4 bits are others than those in the files."""
    served_fingerprint: str | None = None
    """Of the files that a server has of these weights: the same, or of a base in 4 bits those of `dequantize`."""

    @classmethod
    def of(cls, base_model: str, quantization: str | None, *, served: str | None = None) -> Self:
        """The record of a base as its files are now.

        Args:
            base_model: A folder or a Hub id.
            quantization: ``policy.quantization``.
            served: Fingerprint of the files of the server that serves it, if there is one.
        """
        found = known_fingerprint(base_model)
        return cls(
            base_model=base_model,
            fingerprint=found,
            quantization=quantization,
            served_fingerprint=found if quantization is None else served,
        )

    @classmethod
    def served_as(cls, base_model: str, fingerprint: str | None) -> Self:
        """The record of a base that a server serves.

        Args:
            base_model: The server's name for it.
            fingerprint: The server's ``base_fingerprint``.
        """
        return cls(base_model=base_model, fingerprint=fingerprint, served_fingerprint=fingerprint)


def other_base(trained: BaseRecord | None, now: BaseRecord) -> str | None:
    """How two bases are known to differ, as in "was trained on A with fingerprint a, not on B with b"; else None.

    Args:
        trained: The base that something was trained on; None if it has no record.
        now: The base that it is to be used with.
    """
    if trained is None:
        return None
    if trained.quantization == now.quantization:
        before, after = trained.fingerprint, now.fingerprint
    else:
        before, after = trained.served_fingerprint, now.served_fingerprint
    if before is None or after is None or before == after:
        return None
    return (
        f"was trained on {_shown(trained.base_model)} with fingerprint {_shown(before)}, "
        f"not on {_shown(now.base_model)} with {after}"
    )


def _shown(text: str) -> str:
    return shortened(safe_line(text))


def read_base(folder: Path) -> BaseRecord | None:
    """The record in the folder of a run or an SFT; None if there is none that can be read."""
    try:
        return BaseRecord.model_validate_json(read_plain(folder / BASE_FILE))
    except (OSError, ValidationError):
        return None


def write_base(folder: Path, record: BaseRecord) -> None:
    """Write the record into a folder."""
    write_file(folder / BASE_FILE, (record.model_dump_json(indent=2) + "\n").encode())


def base_of(adapter: Path) -> BaseRecord | None:
    """The record of the SFT or run that an adapter folder belongs to; None if there is none."""
    run = run_of(adapter.absolute())
    return read_base(adapter) or (None if run is None else read_base(run))


def require_same_base(folder: Path, policy: PolicyConfig) -> None:
    """Refuse to go on with a run or an SFT on other weights than it was begun on; nothing is written.

    Args:
        folder: Its folder.
        policy: Names the base.

    Raises:
        UsageError: The base's files are others; names both.
    """
    _require_same(folder, read_base(folder), BaseRecord.of(policy.base_model, policy.quantization))


def _require_same(folder: Path, kept: BaseRecord | None, now: BaseRecord) -> None:
    if line := other_base(kept, now):
        raise UsageError(
            f"policy.base_model: {folder} {line}: put the former back (of a Hub id, the revision that it was), or begin "
            f"anew in another folder. If both are the same weights in other files, remove {folder / BASE_FILE}"
        )


def keep_base(folder: Path, policy: PolicyConfig, *, served: str | None = None) -> None:
    """Record the base of a run or an SFT, once its files have been read; what was recorded and is not known now stays.

    Args:
        folder: Its folder.
        policy: Names the base.
        served: Fingerprint of the files of the server that serves it, if there is one.

    Raises:
        UsageError: See `require_same_base`.
    """
    kept = read_base(folder)
    now = BaseRecord.of(policy.base_model, policy.quantization, served=served)
    # Again, since the files of a Hub id may have been downloaded only just now.
    _require_same(folder, kept, now)
    if kept is not None:
        now = kept.model_copy(update=now.model_dump(exclude_none=True))
    if now != kept:
        write_base(folder, now)


def require_adapter_of(adapter: Path, now: BaseRecord, *, field: str) -> None:
    """Refuse an adapter that was trained on another base than the one that a server serves.

    Args:
        adapter: The adapter's folder.
        now: The server's base.
        field: The setting that names the adapter.

    Raises:
        UsageError: Names both bases.
    """
    if line := other_base(base_of(adapter), now):
        raise UsageError(
            f"{field}: {adapter} {line}, which the server serves: serve the former, or name an adapter of the latter. If "
            f"both are the same weights in other files, remove the {BASE_FILE} of the adapter or of its run"
        )
