"""The models of an evaluation: a label for the tables, and what to ask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from inference_server.wire.digests import sha256_of_file
from inference_server.wire.schemas import ADAPTER_WEIGHTS_FILE, ServerStatus, adapter_name
from trainer.client.model_spec import ModelSpec
from trainer.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One ``LABEL=WHAT`` of ``models``."""

    label: str
    model: ModelSpec


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A candidate as the evaluation records it."""

    name: str
    """The served model's name, or the adapter's folder."""
    adapter_sha256: str | None
    """SHA-256 of its weights file, in hex; None for the base model."""

    @classmethod
    def of(cls, model: ModelSpec, served_version: int | None, status: ServerStatus) -> Self:
        """Describe a model before it is asked.

        Args:
            model: The model as it was named.
            served_version: The version on the server; None for the base model and for a folder.
            status: The server's, from which the version was taken.
        """
        if model.folder is not None:
            sha256 = sha256_of_file(model.folder / ADAPTER_WEIGHTS_FILE)
            return cls(name=str(model.folder), adapter_sha256=sha256)
        if served_version is None:
            return cls(name=status.base_model, adapter_sha256=None)
        return cls(
            name=adapter_name(served_version), adapter_sha256=status.sha256_of(served_version)
        )


def parse_candidates(specs: Sequence[str]) -> list[Candidate]:
    """Read every ``LABEL=WHAT``.

    Raises:
        UsageError: One is malformed, names no model, or repeats a label.
    """
    candidates: dict[str, Candidate] = {}
    for spec in specs:
        label, _, what = (part.strip() for part in spec.partition("="))
        if not label or not what:
            raise UsageError(f"models: {spec!r} is not LABEL=WHAT, such as Base=base")
        if label in candidates:
            raise UsageError(f"models: the label {label!r} is given twice; labels must differ")
        model = ModelSpec.parse(what, field=f"models: {spec!r}")
        candidates[label] = Candidate(label=label, model=model)
    return list(candidates.values())
