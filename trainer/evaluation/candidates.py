"""The models of an evaluation: a label for the tables, and what to ask."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.client.model_spec import ModelSpec
from trainer.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One ``LABEL=WHAT`` of ``models``."""

    label: str
    model: ModelSpec


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
