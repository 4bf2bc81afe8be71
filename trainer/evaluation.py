"""Asks several models the same held-out questions through the running server, in one go.

Every model answers greedily and as it is served. Enters: names of served models and adapter
folders. Leaves: an `Evaluation`, which knows how it is counted, compared and shown.
"""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console

from inference_server.schemas import ServerStatus, adapter_name
from regime_w import build_all_arms, build_prompt
from trainer.accuracy import (
    Answer,
    EvaluatedQuestion,
    Evaluation,
    ModelResult,
    PairedDifference,
    print_table,
)
from trainer.client import ArmsClient
from trainer.config import Section, ServerConfig
from trainer.data import WORD_PROBLEMS, load_records
from trainer.errors import UsageError
from trainer.progress import bar
from trainer.served_models import ModelSpec, uploaded
from trainer.word_problems import Split

OnProgress = Callable[[int, int], None]
"""Called with the completions so far and the completions in all, over all models."""


class EvaluationConfig(Section):
    """Greedy accuracy of several models of a running server on the same held-out questions."""

    models: Annotated[tuple[str, ...], Field(min_length=1)] = ("Base=base",)
    """LABEL=WHAT each, where WHAT is `base`, `policy` (the active version), a served version such
    as `policy-000012`, or an adapter folder."""
    data: str = WORD_PROBLEMS
    """`word-problems` (its held-out split) or a JSONL file of {"question", "answer"} records."""
    data_seed: int = 0
    """Seed of the generator."""
    num_questions: Annotated[int, Field(ge=1)] = 400
    """How many questions to ask at most."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest completion."""
    arm: str = "wolfram_0"
    """The arm whose system prompt is used; its temperature is not."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Questions of one request."""
    server: ServerConfig = Field(default_factory=ServerConfig)
    output: Path | None = None
    """JSON file for the result with every answer; RUN/evaluation.json goes into RUN's report."""


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """One ``LABEL=WHAT``."""

    label: str
    model: ModelSpec


async def evaluate(
    config: EvaluationConfig, client: ArmsClient, on_progress: OnProgress
) -> Evaluation:
    """Ask every model every question, and write the result to ``config.output``.

    Raises:
        UsageError: There is nothing sensible to evaluate. Nothing was generated or uploaded.
        ServerError: The server stayed away or refused.
    """
    candidates = [_parse(spec) for spec in config.models]
    _refuse_same_labels(candidates)
    system_prompt = _system_prompt(config.arm)
    if config.output is not None:
        _require_writable(config.output)
    records = load_records(
        config.data, Split.HELD_OUT, num_records=config.num_questions, seed=config.data_seed
    )
    prompts = [build_prompt(system_prompt, record.question) for record in records]
    status = await client.status()
    served = {
        c.label: _served_name(c.model.served_version(status, field="models"), status)
        for c in candidates
        if c.model.folder is None
    }

    results: dict[str, ModelResult] = {}
    # What the server holds goes first: an upload may make it retire its oldest version.
    for candidate in sorted(candidates, key=lambda c: c.model.folder is not None):
        texts: list[str] = []
        folder = candidate.model.folder
        async with nullcontext() if folder is None else uploaded(client, folder) as version:
            model = served.get(candidate.label) or _served_name(version, status)
            for start in range(0, len(prompts), config.batch_size):
                batch = prompts[start : start + config.batch_size]
                texts += await client.complete(model, batch, max_tokens=config.max_tokens)
                num_done = len(results) * len(prompts) + len(texts)
                on_progress(num_done, len(candidates) * len(prompts))
        results[candidate.label] = ModelResult.of(
            label=candidate.label,
            model=served.get(candidate.label, candidate.model.what),
            answers=[Answer.of(t, r.gold) for t, r in zip(texts, records, strict=True)],
        )

    models = tuple(results[candidate.label] for candidate in candidates)
    evaluation = Evaluation(
        base_model=status.base_model,
        data=config.data,
        data_seed=config.data_seed,
        arm=config.arm,
        max_tokens=config.max_tokens,
        questions=tuple(
            EvaluatedQuestion(id=r.id, question=r.question, gold=r.gold) for r in records
        ),
        models=models,
        differences=tuple(
            PairedDifference.of(baseline=earlier, model=later)
            for earlier, later in combinations(models, 2)
        ),
    )
    if config.output is not None:
        evaluation.write(config.output)
    return evaluation


def run_evaluation(config: EvaluationConfig) -> Evaluation:
    """Evaluate with a progress bar and print the table."""
    console = Console()
    with bar(console) as progress:
        task = progress.add_task("eval", total=None)

        def on_progress(num_done: int, num_total: int) -> None:
            progress.update(task, completed=num_done, total=num_total)

        async def connect_and_evaluate() -> Evaluation:
            async with ArmsClient(config.server) as client:
                return await evaluate(config, client, on_progress)

        evaluation = asyncio.run(connect_and_evaluate())
    print_table(evaluation, console)
    return evaluation


def _parse(spec: str) -> _Candidate:
    label, _, what = (part.strip() for part in spec.partition("="))
    if not label or not what:
        raise UsageError(f"models: {spec!r} is not LABEL=WHAT, such as Base=base")
    return _Candidate(label=label, model=ModelSpec.parse(what, field=f"models: {spec!r}"))


def _refuse_same_labels(candidates: list[_Candidate]) -> None:
    labels = [candidate.label for candidate in candidates]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"models: the label {label!r} is given twice; labels must differ")


def _system_prompt(name: str) -> str:
    arms = {arm.name: arm for arm in build_all_arms()}
    if name not in arms:
        raise UsageError(f"arm: {name!r} is none of {', '.join(arms)}")
    return arms[name].system_prompt


def _require_writable(output: Path) -> None:
    """Fail before the work, not after it."""
    if output.is_dir():
        raise UsageError(f"output: {output} is a folder; name a file in it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output: {output.parent}: {error.strerror}") from None


def _served_name(version: int | None, status: ServerStatus) -> str:
    return status.base_model if version is None else adapter_name(version)
