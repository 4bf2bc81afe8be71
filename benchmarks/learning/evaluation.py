"""Held-out evaluation of a run's versions at temperature 0, once the run is over."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from benchmarks.learning.curves import Curve, Point
from regime_w import answers_agree, build_all_arms, extract_answer, extract_gold
from trainer.client.protocol import GreedyPrompt
from trainer.data.sources import Record


def curve_path(folder: Path, seed: int, row: str) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in row).strip("-")
    return folder / f"{name}-{seed}" / "curve.json"


def write_curve(
    row: str,
    seed: int,
    path: Path,
    steps: Sequence[int],
    seconds: Sequence[float],
    correct: Sequence[str],
) -> None:
    """Write a run's curve: for each evaluated version its step, its time and which questions it answers correctly."""
    points = (
        Point(step=step, seconds=at_s, correct=bits)
        for step, at_s, bits in zip(steps, seconds, correct, strict=True)
    )
    curve = Curve(row=row, seed=seed, points=tuple(points))
    curve.write(path)
    shown = " ".join(f"{p.seconds:.1f}s:{100 * p.accuracy:.1f}" for p in curve.points)
    print(f"{row}, seed {seed}: {shown}", flush=True)


def greedy_prompt(max_tokens: int) -> GreedyPrompt:
    """The prompt with which an evaluation asks the tiny model's tasks."""
    return GreedyPrompt(
        system_prompt=build_all_arms()[0].system_prompt,
        prompt_format="plain",
        max_tokens=max_tokens,
    )


def correct_answers(
    adapters: Sequence[Path], url: str, records: Sequence[Record], prompt: GreedyPrompt
) -> list[str]:
    """For each adapter a string: a 1 for each question that its greedy answer solves, a 0 for each other one."""
    from trainer.client.arms_client import ArmsClient
    from trainer.client.asked_model import uploaded
    from trainer.config.sections import ServerConfig

    questions = [record.question for record in records]

    async def ask() -> list[str]:
        found = []
        async with ArmsClient(ServerConfig(url=url)) as client:
            for adapter in adapters:
                async with uploaded(client, adapter) as model:
                    completions = await client.complete(model.version, questions, prompt)
                correct = (
                    answers_agree(extract_answer(completion.text), extract_gold(record.gold))
                    for completion, record in zip(completions, records, strict=True)
                )
                found.append("".join(str(int(c)) for c in correct))
        return found

    return asyncio.run(ask())
