"""Chooses the version of a run to export: the newest, the best, or the one after a step."""

from dataclasses import dataclass
from pathlib import Path

from inference_server.wire.digests import sha256_of_bytes, sha256_of_file
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE
from trainer.config.safe_text import shortened
from trainer.errors import UsageError
from trainer.io.metrics_file import read_with_late, with_late
from trainer.io.run_layout import ADAPTERS_FOLDER, JOURNAL_FILE, version_folders
from trainer.run_state.best import read_best
from trainer.run_state.journal_reader import JournalReader


@dataclass(frozen=True, kw_only=True)
class RunVersion:
    """A version of a run's policy that is on its disk."""

    folder: Path
    """Its adapter."""
    step: int
    """The step after which it was written; 0 is the start."""
    sha256: str
    """SHA-256 of its weights file, in hex."""


@dataclass(frozen=True, kw_only=True)
class JournalDigest:
    """The state of a run's journal at the time of the export."""

    sha256: str
    """SHA-256 of its first ``num_bytes`` bytes, in hex."""
    num_bytes: int


def choose_version(run: Path, *, step: int | None, best: bool) -> RunVersion:
    """The version to export.

    Args:
        run: The run's folder.
        step: The step after which it was written; None takes the newest.
        best: Take the one with the best evaluation of ``run.evaluate_every`` instead.

    Raises:
        UsageError: The run does not have the version, or its weights are not those that the journal has.
        CheckpointError: The record of the best version is damaged.
    """
    journaled = {adapter.version: adapter for adapter in JournalReader(run).adapters}
    folders = {
        version: path
        for version, path in version_folders(run).items()
        if (path / ADAPTER_WEIGHTS_FILE).is_file()
    }
    # Without a server there is no journal, and a version's number is its step.
    steps = {version: adapter.step for version, adapter in journaled.items()} or {
        version: version for version in folders
    }
    available = steps.keys() & folders.keys()
    if not available:
        raise UsageError(f"{run}: there is no version of the policy in {ADAPTERS_FOLDER}/")
    wanted = set(available)
    if best:
        found = read_best(run)
        if found is None:
            raise UsageError(_why_no_best(run))
        wanted &= {found.version}
    elif step is not None:
        wanted = {version for version in available if steps[version] == step}
    if not wanted:
        known = shortened(", ".join(map(str, sorted({steps[version] for version in available}))))
        asked = "--best" if best else f"--step {step}"
        raise UsageError(f"{asked}: {run} does not hold that version; it has those of step {known}")
    version = max(wanted)
    sha256 = sha256_of_file(folders[version] / ADAPTER_WEIGHTS_FILE)
    if version in journaled and journaled[version].sha256 != sha256:
        raise UsageError(
            f"{folders[version]}: its weights are not those that the journal has; choose another --step"
        )
    return RunVersion(folder=folders[version], step=steps[version], sha256=sha256)


def _why_no_best(run: Path) -> str:
    """Says why a run has no best version: it evaluated none, or only its start, which is not chosen as the best."""
    evaluations = [row for row in with_late(*read_with_late(run)) if "eval/accuracy" in row]
    if evaluations and not any(row.get("eval/step", row["step"]) for row in evaluations):
        return (
            f"--best: {run} has evaluated only its start so far; leave it out, or let the run go on to its next "
            "evaluation (run.evaluate_every)"
        )
    return f"--best: {run} has evaluated no version; leave it out, or set run.evaluate_every in the next run"


def journal_digest(run: Path) -> JournalDigest | None:
    """The digest of a run's journal, without a line that is being written; None if the run has no journal."""
    num_bytes = JournalReader(run).num_bytes
    if not num_bytes:
        return None
    data = (run / JOURNAL_FILE).read_bytes()[:num_bytes]
    return JournalDigest(sha256=sha256_of_bytes(data), num_bytes=num_bytes)
