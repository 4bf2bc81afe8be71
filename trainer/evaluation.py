"""Asks several models the same held-out questions through the running server, in one go.

Every model answers greedily and as it is served. Enters: names of served models and adapter
folders. Leaves: an `Evaluation`, which knows how it is counted, compared and shown.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated

import stamina
from pydantic import Field
from rich.console import Console

from inference_server.schemas import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    ServerStatus,
    adapter_name,
)
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
from trainer.errors import ServerError, ServerRejectedError, UsageError
from trainer.progress import bar
from trainer.word_problems import Split

OnProgress = Callable[[int, int], None]
"""Called with the completions so far and the completions in all, over all models."""

_BASE, _POLICY = "base", "policy"
_VERSION_NAME = re.compile(r"policy-[0-9]{6,}")

_CONFLICT, _NOT_FOUND = 409, 404
_IDLE_WITHIN_S = 10.0
"""Aborted requests leave the engine within a step; until then their version cannot be removed."""


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
    what: str
    folder: Path | None
    """Where `what` is an adapter folder rather than something served."""


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
    served = {c.label: _served_name(c, status) for c in candidates if c.folder is None}

    results: dict[str, ModelResult] = {}
    # What the server holds goes first: an upload may make it retire its oldest version.
    for candidate in sorted(candidates, key=lambda c: c.folder is not None):
        texts: list[str] = []
        async with (
            nullcontext(served[candidate.label])
            if candidate.folder is None
            else _uploaded(client, candidate.folder)
        ) as model:
            for start in range(0, len(prompts), config.batch_size):
                batch = prompts[start : start + config.batch_size]
                texts += await client.complete(model, batch, max_tokens=config.max_tokens)
                num_done = len(results) * len(prompts) + len(texts)
                on_progress(num_done, len(candidates) * len(prompts))
        results[candidate.label] = ModelResult.of(
            label=candidate.label,
            model=served.get(candidate.label, candidate.what),
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
    if what in (_BASE, _POLICY) or _VERSION_NAME.fullmatch(what):
        return _Candidate(label=label, what=what, folder=None)
    folder = Path(what)
    for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise UsageError(
                f"models: {spec!r}: there is no {name} in {what}; name an adapter folder, "
                f"{_BASE}, {_POLICY} or a version such as {adapter_name(12)}"
            )
    return _Candidate(label=label, what=what, folder=folder)


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


def _served_name(candidate: _Candidate, status: ServerStatus) -> str:
    """The name to ask for; ``policy`` is pinned to what is active now, for it may move meanwhile."""
    if candidate.what == _BASE:
        return status.base_model
    if candidate.what == _POLICY:
        active = status.active_version
        return status.base_model if active is None else adapter_name(active)
    names = [version.name for version in status.versions]
    if candidate.what not in names:
        raise UsageError(
            f"models: {candidate.what} is not served (but {', '.join([_BASE, *names])}); "
            "name its adapter folder instead"
        )
    return candidate.what


@asynccontextmanager
async def _uploaded(client: ArmsClient, folder: Path) -> AsyncIterator[str]:
    """An adapter folder as a served model, for the length of the block; never the active one."""
    version = (await client.status()).next_version
    await client.push_adapter(version, folder, activate=False)
    try:
        yield adapter_name(version)
    except BaseException:
        # What went wrong first is what the user must read.
        with suppress(ServerError):
            await _remove(client, version)
        raise
    await _remove(client, version)


async def _remove(client: ArmsClient, version: int) -> None:
    def in_use(error: Exception) -> bool:
        return isinstance(error, ServerRejectedError) and error.status == _CONFLICT

    async for attempt in stamina.retry_context(on=in_use, timeout=_IDLE_WITHIN_S, attempts=None):
        with attempt:
            try:
                await client.delete_adapter(version)
            except ServerRejectedError as error:
                # Another upload has made the server retire it.
                if error.status != _NOT_FOUND:
                    raise
