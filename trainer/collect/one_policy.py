"""Keeps a file of collected rollouts to one policy: a collection does not resume with another one."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from inference_server.wire.digests import sha256_of_file
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE, ServerStatus, adapter_name
from trainer.client.model_spec import ModelSpec
from trainer.collect.stored_rows import CollectedRows
from trainer.config.safe_text import safe_line, shortened
from trainer.errors import UsageError

_SHOWN_DIGITS = 12


@dataclass
class _Rows:
    """The rows of one policy in a file."""

    sha256: str | None
    """The digest of its weights; None of the base."""
    versions: list[int | None] = field(default_factory=list)
    """The numbers that it had."""
    num_rows: int = 0

    def __str__(self) -> str:
        rows = "1 row" if self.num_rows == 1 else f"{self.num_rows} rows"
        return f"{rows} of {_name(self.sha256, *self.versions)}"


async def require_same_policy(
    output: Path, stored: CollectedRows, spec: ModelSpec, status: ServerStatus
) -> None:
    """Refuse to add rows of a model to a file with rows of another policy.

    Versions are compared by the digest of their weights: the same weights get another number with each upload.

    Args:
        output: The file.
        stored: Its rows.
        spec: The model that is to be asked.
        status: The server's status.

    Raises:
        UsageError: Names both policies or both bases, and what to do; or the server does not hold the version.
    """
    _require_same_base(output, stored, status)
    version, sha256 = None, None
    if spec.folder is not None:
        sha256 = await asyncio.to_thread(sha256_of_file, spec.folder / ADAPTER_WEIGHTS_FILE)
        now = f"the adapter in {spec.folder} ({_short(sha256)})"
    else:
        version = spec.served_version(status, field="model")
        sha256 = status.sha256_of(version)
        now = _name(sha256, version)
    is_base = spec.folder is None and version is None
    others: dict[tuple[bool, str | None], _Rows] = {}
    for (row_version, row_sha256), num_rows in stored.policies.items():
        policy = row_version is None, row_sha256
        if policy != (is_base, sha256):
            # Weights that were uploaded again, such as after a server's restart, have several numbers.
            rows = others.setdefault(policy, _Rows(sha256=row_sha256))
            rows.num_rows += num_rows
            rows.versions.append(row_version)
    if not others:
        return
    counts = " and ".join(map(str, others.values()))
    raise UsageError(
        f"{output} has {counts}, but model {spec.what} is {now} now: choose another output"
        + (_how_to_name(next(iter(others.values())), spec, status) if len(others) == 1 else "")
    )


def _require_same_base(output: Path, stored: CollectedRows, status: ServerStatus) -> None:
    """Refuse to add rows of a server to a file with rows of another base: an adapter is another policy on it."""
    now = status.base_fingerprint
    others = [before for before in stored.bases if before != now]
    if now is not None and others:
        before = shortened(safe_line(others[0]))
        raise UsageError(
            f"{output} has rows of a base with fingerprint {before}, but {status.base_model}, which the server serves, has "
            f"{now}: serve the former, or choose another output"
        )


def _how_to_name(rows: _Rows, spec: ModelSpec, status: ServerStatus) -> str:
    """How to go on with the policy of the rows."""
    version, *others = rows.versions
    if version is None:
        return ", or set model to base"
    held = [v.name for v in status.versions if v.sha256 == rows.sha256]
    if held:
        return f", or set model to {held[-1]}, which the server holds"
    # An uploaded folder has another number in the rows than in its run.
    name = adapter_name(version if spec.folder is None and not others else 12)
    return f", or set model to the adapter folder of these rows, such as RUN/adapters/{name}"


def _name(sha256: str | None, version: int | None, *others: int | None) -> str:
    if version is None:
        return "the base"
    numbers = " and ".join(map(str, (version, *others)))
    return f"version{'s' * bool(others)} {numbers}" + (f" ({_short(sha256)})" if sha256 else "")


def _short(sha256: str) -> str:
    return f"sha256 {sha256[:_SHOWN_DIGITS]}"
